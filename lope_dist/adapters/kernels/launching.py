"""Where the Triton kernels run, and their one way onto the device."""

from __future__ import annotations

from typing import Any

from torch import Tensor

MAX_RANK = 64
"""Kernels hold all ranks of some tokens in registers; above, the PyTorch form runs."""


def run_on(x: Tensor, rank: int) -> bool:
    """Whether the kernels compute with a tensor, for an adapter of this rank."""
    return x.is_cuda and rank <= MAX_RANK


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start one kernel. `bench/launches.py` counts here."""
    kernel[grid](*arguments, **constants)


def power_of_two(number: int) -> int:
    """Return the next power of two, the number itself included."""
    return 1 << max(0, number - 1).bit_length()
