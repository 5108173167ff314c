"""Forward passes of a partitioned model that no engine drives.

Every gather is a collective, so all ranks must make the same ones in the same order. Ranks that
answer requests do not by themselves: one has more batches than another, a text ends after 12
tokens on one and 300 on the next, an encoder is asked once and its decoder many times. So before
each gather the ranks agree on which it is:

    rank 0   wants layer 3  | gathers 3, computes | wants 4 ...
    rank 1   wants layer 7  | gathers 3, lets go  | still wants 7 ...
    rank 2   has no work    | gathers 3, lets go  | has no work ...

The foremost module that anyone wants comes first, so ranks that are apart meet after one pass, and
stay together from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lope_dist.engine.world import World


@contextmanager
def gathering(model: nn.Module, world: World | None = None) -> Iterator[None]:
    """Context in which a model may be asked though ZeRO-3 partitions its weights.

    Each layer of a list of layers is whole while it computes, and so is each module outside
    those. A model that is not partitioned is left as it is.

    Args:
        model: The model.
        world: Ranks that have different work, or none: at the block's end each goes on gathering
            until all have come there. None: all ranks make the same forward passes.

    Collective: yes; without a ``world`` each forward pass, on all ranks alike.
    """
    units = [
        (unit, partitioned)
        for unit, parameters in units_of(model)
        if (partitioned := [p for p in parameters if hasattr(p, "ds_id")])
    ]
    order = None if world is None or not units else _Order(world, [own for _, own in units])
    handles = []
    for index, (unit, parameters) in enumerate(units):
        gatherer = _Gatherer(parameters, index, order)
        handles.append(unit.register_forward_pre_hook(gatherer.enter))
        handles.append(unit.register_forward_hook(gatherer.leave, always_call=True))
    try:
        yield
        if order is not None:
            order.attend()
    finally:
        for handle in handles:
            handle.remove()


class _Order:
    """The order of the gathers of ranks with different work."""

    def __init__(self, world: World, units: list[list[nn.Parameter]]) -> None:
        self._world, self._units = world, units

    def reach(self, index: int) -> None:
        """Gather what others want first; return when all gather this unit. Collective: yes."""
        while (agreed := self._agree(index)) != index:
            self._gather_for_others(agreed)

    def attend(self) -> None:
        """Gather for the others until no rank has work left. Collective: yes."""
        none_left = len(self._units)
        while (agreed := self._agree(none_left)) != none_left:
            self._gather_for_others(agreed)

    def _agree(self, index: int) -> int:
        """Return the foremost unit that a rank wants."""
        (foremost,) = self._world.max([-float(index)])
        return int(-foremost)

    def _gather_for_others(self, index: int) -> None:
        for parameter in self._units[index]:
            make_whole(parameter)
            let_go(parameter)


class _Gatherer:
    """The hooks of one unit."""

    def __init__(self, parameters: list[nn.Parameter], index: int, order: _Order | None) -> None:
        self._parameters, self._index, self._order = parameters, index, order
        self._is_whole = False

    def enter(self, module: nn.Module, args: Any) -> None:
        if self._order is not None:
            self._order.reach(self._index)
        for parameter in self._parameters:
            make_whole(parameter)
        self._is_whole = True

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._is_whole:
            for parameter in self._parameters:
                let_go(parameter)
            self._is_whole = False


def make_whole(parameter: Any) -> None:
    """Give a partitioned parameter its whole data, in the one buffer that it takes.

    DeepSpeed's own gather fills a second buffer beside it, and gloo's a third: of an embedding that
    is more than a rank's share of a small model. Collective: yes.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    part, group = parameter.ds_tensor, parameter.ds_process_group
    size = dist.get_world_size(group)
    whole = part.to(parameter.device)
    if size > 1:
        whole = torch.empty(part.numel() * size, dtype=part.dtype, device=parameter.device)
        _all_gather(part.to(parameter.device), whole, group)
    parameter.data = whole[: parameter.ds_numel].view(parameter.ds_shape)
    parameter.ds_status = ZeroParamStatus.AVAILABLE


def let_go(parameter: Any) -> None:
    """Free what `make_whole` has made; nothing of it was changed."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    parameter.ds_status = ZeroParamStatus.NOT_AVAILABLE


def _all_gather(part: Tensor, whole: Tensor, group: dist.ProcessGroup) -> None:
    """Fill ``whole`` with the ranks' parts, without a buffer beside it. Collective: yes."""
    if dist.get_backend(group) != "gloo":
        dist.all_gather_into_tensor(whole, part, group=group)
        return
    parts = whole.chunk(dist.get_world_size(group))
    parts[dist.get_rank(group)].copy_(part)
    for source, each in enumerate(parts):
        dist.broadcast(each, group=group, group_src=source)


def units_of(model: nn.Module) -> list[tuple[nn.Module, list[nn.Parameter]]]:
    """Return the modules that are gathered at, in the model's order, with the parameters of each.

    A layer of a list of layers with all of its own; each module outside those with its direct ones.
    """
    layers: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not _is_inside(name, layers):
            layers |= {f"{name}.{key}" for key, _ in module.named_children()}
    found = []
    for name, module in model.named_modules():
        parameters = list(module.parameters(recurse=name in layers))
        if parameters and not _is_inside(name, layers):
            found.append((module, parameters))
    return found


def _is_inside(name: str, layers: set[str]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in layers)
