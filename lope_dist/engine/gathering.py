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

from torch import nn

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
        import deepspeed

        with deepspeed.zero.GatheredParameters(self._units[index]):
            pass


class _Gatherer:
    """The hooks of one unit."""

    def __init__(self, parameters: list[nn.Parameter], index: int, order: _Order | None) -> None:
        self._parameters, self._index, self._order = parameters, index, order
        self._gathered: Any = None

    def enter(self, module: nn.Module, args: Any) -> None:
        import deepspeed

        if self._order is not None:
            self._order.reach(self._index)
        self._gathered = deepspeed.zero.GatheredParameters(self._parameters)
        self._gathered.__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._gathered is not None:
            self._gathered.__exit__(None, None, None)
            self._gathered = None


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
