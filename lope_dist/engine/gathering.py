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

An embedding or a head is gathered some rows at a time (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lope_dist.engine.rows import SpreadRows, TakesRows, is_by_rows, looked_up
from lope_dist.engine.world import World


@contextmanager
def gathering(model: nn.Module, world: World | None = None) -> Iterator[Weights]:
    """Context in which a model may be asked though ZeRO-3 partitions its weights.

    What it gives is for one who reads weights without asking the model.

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
    gathers = [_Gather(unit, parameters) for unit, parameters in units]
    order = None if world is None or not units else _Order(world, gathers)
    handles = []
    for index, ((unit, _), gather) in enumerate(zip(units, gathers, strict=True)):
        gatherer = _Gatherer(gather, index, order)
        handles.append(unit.register_forward_pre_hook(gatherer.enter))
        handles.append(unit.register_forward_hook(gatherer.leave, always_call=True))
    try:
        yield Weights(gathers, order)
        if order is not None:
            order.attend()
    finally:
        for handle in handles:
            handle.remove()


class _Gather:
    """How the weights of one unit are gathered; the same messages whether they are used or not."""

    def __init__(self, unit: nn.Module, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._rows = SpreadRows(parameters[0]) if is_by_rows(unit) else None
        self._padding_idx = getattr(unit, "padding_idx", None)

    def has(self, parameter: nn.Parameter) -> bool:
        """Return whether the parameter is one of the unit's."""
        return any(parameter is each for each in self._parameters)

    def for_others(self) -> None:
        """Gather what this rank has no use for. Collective: yes."""
        for _ in self._rows or ():
            pass
        for parameter in self._parameters if self._rows is None else ():
            _make_whole(parameter)  # one at a time
            _let_go(parameter)

    def enter(self, module: Any, args: Any) -> Any:
        """Give the unit its weights, or what stands for them; return its arguments, if others.

        Collective: yes, at once or in the unit's forward pass.
        """
        if self._rows is None:
            self.make_whole()
        elif isinstance(module, nn.Embedding) and args:
            ids, *others = args
            rows, within = looked_up(ids, self._rows)
            hold(self._parameters[0], rows)
            module.padding_idx = None  # it counts in all rows, and matters to gradients alone
            return within, *others
        elif isinstance(module, TakesRows) and module.takes_rows and not torch.is_grad_enabled():
            module.rows = self._rows
        else:
            self.make_whole()
        return None

    def leave(self, module: Any) -> None:
        """Free the unit's weights."""
        if isinstance(module, TakesRows):
            module.rows = None
        if self._rows is not None and isinstance(module, nn.Embedding):
            module.padding_idx = self._padding_idx
        self.let_go()

    def make_whole(self) -> None:
        """Give each parameter its whole data. Collective: yes."""
        if self._rows is not None:
            hold(self._parameters[0], self._rows.whole())
            return
        for parameter in self._parameters:
            _make_whole(parameter)

    def let_go(self) -> None:
        """Free what the parameters hold."""
        for parameter in self._parameters:
            _let_go(parameter)


class Weights:
    """The weights of a model that may be partitioned, one unit of it at a time."""

    def __init__(self, gathers: list[_Gather], order: _Order | None) -> None:
        self._gathers, self._order = gathers, order

    @contextmanager
    def whole(self, parameter: Any) -> Iterator[None]:
        """Context in which a parameter has its data, with the others of its unit.

        A tensor that is not partitioned, or that is whole already, is left as it is.

        Collective: as a forward pass of the unit.
        """
        if not hasattr(parameter, "ds_id") or parameter.numel() == parameter.ds_numel:
            yield
            return
        index = next(i for i, g in enumerate(self._gathers) if g.has(parameter))
        if self._order is not None:
            self._order.reach(index)
        self._gathers[index].make_whole()
        try:
            yield
        finally:
            self._gathers[index].let_go()


class _Order:
    """The order of the gathers of ranks with different work."""

    def __init__(self, world: World, gathers: list[_Gather]) -> None:
        self._world, self._gathers = world, gathers

    def reach(self, index: int) -> None:
        """Gather what others want first; return when all gather this unit. Collective: yes."""
        while (agreed := self._agree(index)) != index:
            self._gathers[agreed].for_others()

    def attend(self) -> None:
        """Gather for the others until no rank has work left. Collective: yes."""
        none_left = len(self._gathers)
        while (agreed := self._agree(none_left)) != none_left:
            self._gathers[agreed].for_others()

    def _agree(self, index: int) -> int:
        """Return the foremost unit that a rank wants."""
        (foremost,) = self._world.max([-float(index)])
        return int(-foremost)


class _Gatherer:
    """The hooks of one unit."""

    def __init__(self, gather: _Gather, index: int, order: _Order | None) -> None:
        self._gather, self._index, self._order = gather, index, order
        self._is_held = False

    def enter(self, module: nn.Module, args: Any) -> Any:
        if self._order is not None:
            self._order.reach(self._index)
        self._is_held = True
        return self._gather.enter(module, args)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._is_held:
            self._gather.leave(module)
            self._is_held = False


def _make_whole(parameter: Any) -> None:
    """Give a partitioned parameter its whole data, in the one buffer that it takes.

    DeepSpeed's own gather fills a second buffer beside it, and gloo's a third: of an embedding that
    is more than a rank's share of a small model. Collective: yes.
    """
    part, group = parameter.ds_tensor, parameter.ds_process_group
    size = dist.get_world_size(group)
    whole = part.to(parameter.device)
    if size > 1:
        whole = torch.empty(part.numel() * size, dtype=part.dtype, device=parameter.device)
        _all_gather(part.to(parameter.device), whole, group)
    hold(parameter, whole[: parameter.ds_numel].view(parameter.ds_shape))


def hold(parameter: Any, data: Tensor) -> None:
    """Give a partitioned parameter data to compute with, until `_let_go`."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    parameter.data = data
    parameter.ds_status = ZeroParamStatus.AVAILABLE


def _let_go(parameter: Any) -> None:
    """Free what the parameter holds; nothing of it was changed."""
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
    units = []
    for name, module in model.named_modules():
        parameters = list(module.parameters(recurse=name in layers))
        if parameters and not _is_inside(name, layers):
            units.append((module, parameters))
    return units


def _is_inside(name: str, layers: set[str]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in layers)
