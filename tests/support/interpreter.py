"""Triton's interpreter, which runs kernels on the CPU; `tests/conftest.py` turns it on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from lope_dist.adapters.kernels import launching


def multiply_bfloat16(patch: pytest.MonkeyPatch) -> None:
    """Let `tl.dot` take bfloat16: the interpreter multiplies its bits as if they were integers."""
    plain = InterpreterBuilder.create_dot

    def create_dot(builder: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return plain(builder, _widened(a), _widened(b), *rest)

    patch.setattr(InterpreterBuilder, "create_dot", create_dot)


def _widened(operand: TensorHandle) -> TensorHandle:
    if operand.dtype.scalar != tl.bfloat16:
        return operand
    bits = operand.data.astype(np.uint32) << 16
    return TensorHandle(bits.view(np.float32), tl.float32)


def run_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    """Let the adapters take the path of a GPU, in the interpreter."""
    multiply_bfloat16(patch)
    patch.setattr(launching, "run_on", lambda x, rank: rank <= launching.MAX_RANK)
