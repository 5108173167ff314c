"""Modules without weights: parameters on the meta device, buffers with their first values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch.overrides import TorchFunctionMode

_LARGE = 1 << 26
"""Elements of what is never made in host memory: more than any buffer has."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Context in which modules are built without weights.

    accelerate moves a parameter to the meta device once it has been made. The banks of all experts
    of a layer may be larger than the host's memory, so they are made there.
    """
    with init_empty_weights(include_buffers=False), _LargeOnMeta():
        yield


class _LargeOnMeta(TorchFunctionMode):
    """Makes large tensors that have no values of their own yet on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros) and kwargs.get("device") is None:
            empty = func(*args, **{**kwargs, "device": "meta"})
            if empty.numel() > _LARGE:
                return empty
        return func(*args, **kwargs)
