"""Dropout and the projection A in one pass over x: `gemms.project` where there is dropout.

A library's product would need the dropped input written and read again, or its mask. Here x is
read once forward; backward x is read and its gradient written once, for both gradients. Products
with R columns or rows are bound by these bytes, not by arithmetic.

The gradient of A is a sum over tokens: each program sums a part, and one more launch adds the
parts up, in a fixed order.

Shapes: P tokens, D in, R rank, S parts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lope_dist.adapters.counter_noise import dropped_of_65536, keep_scale, signed
from lope_dist.adapters.kernels import launching
from lope_dist.adapters.kernels.counter_hash import keeps, mixed_keys
from lope_dist.adapters.kernels.launching import power_of_two


@triton.jit(do_not_specialize=["salt", "dropped", "P"])
def _forward(
    x_PD, A_RD, keys_P, h_PR, salt, dropped, scale, P,
    D: tl.constexpr, R: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    r = tl.arange(0, BLOCK_R)
    in_P, in_R = p < P, r < R
    row_P = p.to(tl.int64) * D
    mixed_P = mixed_keys(tl.load(keys_P + p, mask=in_P, other=0), salt)
    h = tl.zeros((BLOCK_P, BLOCK_R), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        in_D = d < D
        x = tl.load(
            x_PD + row_P[:, None] + d[None, :], mask=in_P[:, None] & in_D[None, :], other=0.0
        )
        x = tl.where(keeps(mixed_P, start, dropped, BLOCK_D), x, 0.0)
        A = tl.load(
            A_RD + r[None, :] * D + d[:, None], mask=in_R[None, :] & in_D[:, None], other=0.0
        )
        h = tl.dot(x, (A * scale).to(x.dtype), h, input_precision="ieee")
    to = h_PR + p[:, None].to(tl.int64) * R + r[None, :]
    tl.store(to, h.to(h_PR.dtype.element_ty), mask=in_P[:, None] & in_R[None, :])


@triton.jit(do_not_specialize=["salt", "dropped", "P"])
def _backward(
    x_PD, A_RD, keys_P, grad_PR, grad_x_PD, grad_A_SRD, salt, dropped, scale, P,
    D: tl.constexpr, R: tl.constexpr, PART: tl.constexpr,
    NEEDS_X: tl.constexpr, NEEDS_A: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    start_d, s = tl.program_id(0) * BLOCK_D, tl.program_id(1)
    d = start_d + tl.arange(0, BLOCK_D)
    r = tl.arange(0, BLOCK_R)
    in_D, in_R = d < D, r < R
    at_RD, in_RD = r[:, None] * D + d[None, :], in_R[:, None] & in_D[None, :]
    dtype = x_PD.dtype.element_ty
    A = tl.load(A_RD + at_RD, mask=in_RD, other=0.0).to(dtype)
    grad_A = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    for start in range(0, PART, BLOCK_P):
        p = s * PART + start + tl.arange(0, BLOCK_P)
        in_P = p < P
        at_PD = p[:, None].to(tl.int64) * D + d[None, :]
        in_PD = in_P[:, None] & in_D[None, :]
        mixed_P = mixed_keys(tl.load(keys_P + p, mask=in_P, other=0), salt)
        kept = keeps(mixed_P, start_d, dropped, BLOCK_D)
        grad = tl.load(
            grad_PR + p[:, None].to(tl.int64) * R + r[None, :],
            mask=in_P[:, None] & in_R[None, :],
            other=0.0,
        )
        grad = (grad.to(tl.float32) * scale).to(dtype)
        if NEEDS_A:
            x = tl.load(x_PD + at_PD, mask=in_PD, other=0.0)
            x = tl.where(kept, x, 0.0)
            grad_A = tl.dot(tl.trans(grad), x, grad_A, input_precision="ieee")
        if NEEDS_X:
            grad_x = tl.dot(grad, A, input_precision="ieee").to(dtype)
            tl.store(grad_x_PD + at_PD, tl.where(kept, grad_x, 0.0), mask=in_PD)
    if NEEDS_A:
        tl.store(grad_A_SRD + s.to(tl.int64) * R * D + at_RD, grad_A, mask=in_RD)


def project(x_PD: Tensor, A_RD: Tensor, keys_P: Tensor, salt: int, p: float) -> Tensor:
    """Compute `dropout(x) A^T`, one launch.

    Shapes: (P, D), float32 (R, D), int32 (P,) -> (P, R) in x's dtype.
    """
    (P, D), R = x_PD.shape, A_RD.shape[0]
    block_R = max(16, power_of_two(R))
    block_P = 32
    h_PR = torch.empty(P, R, dtype=x_PD.dtype, device=x_PD.device)
    launching.launch(
        _forward,
        (triton.cdiv(P, block_P),),
        *(x_PD.contiguous(), A_RD, keys_P, h_PR, signed(salt), dropped_of_65536(p), keep_scale(p)),
        P,
        D=D,
        R=R,
        BLOCK_P=block_P,
        BLOCK_D=min(128 if block_R <= 32 else 64, max(16, power_of_two(D))),
        BLOCK_R=block_R,
    )
    return h_PR


def project_backward(
    grad_PR: Tensor,
    x_PD: Tensor,
    A_RD: Tensor,
    keys_P: Tensor,
    salt: int,
    p: float,
    *,
    needs_x: bool,
    needs_A: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and A, as far as they are needed: two launches at most.

    Shapes: (P, R), (P, D), float32 (R, D), int32 (P,) -> (P, D) in x's dtype, float32 (R, D).
    """
    (P, D), R = x_PD.shape, A_RD.shape[0]
    block_R = max(16, power_of_two(R))
    block_D = min(128 if block_R <= 32 else 64, max(16, power_of_two(D)))
    part = 512 if block_R <= 16 else 2048  # tokens; a part costs 8 R bytes for each column of x
    parts = triton.cdiv(P, part)
    grad_x = torch.empty_like(x_PD, memory_format=torch.contiguous_format) if needs_x else None
    grad_A_SRD = None
    if needs_A:
        grad_A_SRD = torch.empty(parts, R, D, dtype=torch.float32, device=x_PD.device)
    launching.launch(
        _backward,
        (triton.cdiv(D, block_D), parts),
        x_PD.contiguous(),
        A_RD,
        keys_P,
        grad_PR.contiguous(),
        x_PD if grad_x is None else grad_x,  # not written where it is not needed
        A_RD if grad_A_SRD is None else grad_A_SRD,
        *(signed(salt), dropped_of_65536(p), keep_scale(p), P),
        D=D,
        R=R,
        PART=part,
        NEEDS_X=needs_x,
        NEEDS_A=needs_A,
        BLOCK_P=32,
        BLOCK_D=block_D,
        BLOCK_R=block_R,
    )
    return grad_x, None if grad_A_SRD is None else grad_A_SRD.sum(0)
