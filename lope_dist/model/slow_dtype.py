"""A precision that this device only emulates: right, and many times slower than float32.

bfloat16 has no units in many CPUs and in GPUs before compute capability 8.0. Nothing fails there.
So its speed is measured, and said.
"""

from __future__ import annotations

import sys
import time

import torch

_SIZE = 384
"""Rows and columns of the factors: a few milliseconds on a CPU core."""
_TRIES = 3
_SLOW = 2.0
"""Times as long as in float32; below this nobody would choose differently."""


def slow_dtype_sentence(dtype: str, device: torch.device | None = None) -> str | None:
    """Return a sentence if ``device`` multiplies ``dtype`` more slowly than float32, else None.

    The two are measured here and now.

    Args:
        dtype: `model.dtype`.
        device: That of the computation. None: a GPU, if there is one.
    """
    if dtype == "float32":
        return None
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ratio = _seconds(getattr(torch, dtype), device) / _seconds(torch.float32, device)
    if ratio < _SLOW:
        return None
    what = "GPU" if device.type == "cuda" else "CPU"
    return (
        f"this {what} multiplies {dtype} {ratio:.0f} times slower than float32; "
        "model.dtype=float32 is faster here and takes more memory"
    )


def tell_slow_dtype(dtype: str, device: torch.device | None = None) -> None:
    """Print `slow_dtype_sentence` on stderr, if there is one."""
    if sentence := slow_dtype_sentence(dtype, device):
        print(f"Slow: {sentence}.", file=sys.stderr)


def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Return the shortest time of one product."""
    a = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    times: list[float] = []
    for _ in range(_TRIES + 1):  # the first one sets up the library, and is not the shortest
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, a)
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
