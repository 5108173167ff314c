"""A model that forward passes leave as it was: training goes on as though there were none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None), Tensor)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in evaluation mode, so its adapters inject and collect nothing.

    Put back afterwards: each module's mode, buffers and plain attributes (a position embedding may
    count the longest row that it has seen, and DeepSpeed its hooks), and torch's random state.
    """
    device = next(model.parameters()).device
    held = [_Held(module) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            for module in held:
                module.put_back()


class _Held:
    """What a module's forward pass may change of the module itself."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._plain: dict[str, Any] = {
            name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)
        }
        self._buffers = [
            (name, buffer, None if buffer is None else buffer.clone())
            for name, buffer in module._buffers.items()
        ]

    def put_back(self) -> None:
        vars(self._module).update(self._plain)
        for name, buffer, values in self._buffers:
            if buffer is not None and values is not None:
                buffer.copy_(values)
            self._module._buffers[name] = buffer
