"""Forward passes of a partitioned model that no engine drives yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def gathering(model: nn.Module) -> Iterator[None]:
    """Context in which a model may be asked though ZeRO-3 partitions its weights.

    Each layer of a list of layers is whole while it computes, and so is each module outside
    those. A model that is not partitioned is left as it is.

    Collective: yes, each forward pass, on all ranks alike.
    """
    handles = []
    for unit, parameters in _units(model):
        gatherer = _Gatherer(parameters)
        handles.append(unit.register_forward_pre_hook(gatherer.enter))
        handles.append(unit.register_forward_hook(gatherer.leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Gatherer:
    """The hooks of one unit."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._gathered: Any = None

    def enter(self, module: nn.Module, args: Any) -> None:
        import deepspeed

        self._gathered = deepspeed.zero.GatheredParameters(self._parameters)
        self._gathered.__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._gathered is not None:
            self._gathered.__exit__(None, None, None)
            self._gathered = None


def _units(model: nn.Module) -> list[tuple[nn.Module, list[nn.Parameter]]]:
    """Return the modules to gather at, with the partitioned parameters of each."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not _is_inside(name, layers):
            layers |= {f"{name}.{key}": child for key, child in module.named_children()}
    units = {id(layer): (layer, list(layer.parameters())) for layer in layers.values()}
    for name, module in model.named_modules():
        if not _is_inside(name, layers) and name not in layers:
            units[id(module)] = (module, list(module.parameters(recurse=False)))
    found = []
    for module, parameters in units.values():
        partitioned = [p for p in parameters if hasattr(p, "ds_id")]
        if partitioned:
            found.append((module, partitioned))
    return found


def _is_inside(name: str, layers: dict[str, nn.Module]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in layers)
