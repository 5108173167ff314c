"""The router's softmax and `z = vec(w x h)` in one launch; in the backward pass, one and a sum.

The weights are computed again in the backward pass: reading h costs less than keeping them.

Shapes: P tokens, R rank, E experts, Z columns of all experts, S parts of the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lope_dist.adapters.kernels import launching
from lope_dist.adapters.kernels.launching import power_of_two

_BLOCK = 4096  # numbers of (tokens, experts, ranks) that a program holds


@triton.jit
def router_weights(h, router, in_E):
    """Return float32 (P, E) of (P, R) and (E, R): softmax, 0 where there is no expert."""
    logits = tl.sum(h[:, None, :] * router[None, :, :], 2)
    logits = tl.where(in_E[None, :], logits, float("-inf"))
    w = tl.exp(logits - tl.max(logits, 1, keep_dims=True))
    return w / tl.sum(w, 1, keep_dims=True)


@triton.jit(do_not_specialize=["P"])
def _forward(
    h_PR, router_ER, w_PE1, z_PZ, P,
    E: tl.constexpr, R: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    e, r = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_R)
    in_P, in_E, in_R = p < P, e < E, r < R
    in_PR, in_PE = in_P[:, None] & in_R[None, :], in_P[:, None] & in_E[None, :]
    h = tl.load(h_PR + p[:, None] * R + r[None, :], mask=in_PR, other=0.0).to(tl.float32)
    router = tl.load(
        router_ER + e[:, None] * R + r[None, :], mask=in_E[:, None] & in_R[None, :], other=0.0
    )
    w = router_weights(h, router, in_E)
    tl.store(w_PE1 + p[:, None] * (E + 1) + e[None, :], w, mask=in_PE)
    tl.store(w_PE1 + p * (E + 1) + E, tl.full((BLOCK_P,), 1.0, tl.float32), mask=in_P)
    z = w[:, :, None] * h[:, None, :]
    at = z_PZ + p[:, None, None] * (E * R) + e[None, :, None] * R + r[None, None, :]
    tl.store(at, z.to(z_PZ.dtype.element_ty), mask=in_PE[:, :, None] & in_R[None, None, :])


@triton.jit(do_not_specialize=["P"])
def _backward(
    h_PR, router_ER, grad_z_PZ, grad_h_PR, grad_router_SER, P,
    E: tl.constexpr, R: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0)
    p = (s * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    e, r = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_R)
    in_P, in_E, in_R = p < P, e < E, r < R
    in_PR, in_ER = in_P[:, None] & in_R[None, :], in_E[:, None] & in_R[None, :]
    at_PR, at_ER = p[:, None] * R + r[None, :], e[:, None] * R + r[None, :]
    h = tl.load(h_PR + at_PR, mask=in_PR, other=0.0).to(tl.float32)
    router = tl.load(router_ER + at_ER, mask=in_ER, other=0.0)
    w = router_weights(h, router, in_E)
    grad_z = tl.load(
        grad_z_PZ + p[:, None, None] * (E * R) + at_ER[None, :, :],
        mask=in_P[:, None, None] & in_ER[None, :, :],
        other=0.0,
    ).to(tl.float32)
    grad_w = tl.sum(grad_z * h[:, None, :], 2)
    grad_logits = w * grad_w
    grad_logits = grad_logits - w * tl.sum(grad_logits, 1, keep_dims=True)
    grad_h = w[:, :, None] * grad_z + grad_logits[:, :, None] * router[None, :, :]
    tl.store(grad_h_PR + at_PR, tl.sum(grad_h, 1).to(grad_h_PR.dtype.element_ty), mask=in_PR)
    grad_router = tl.sum(grad_logits[:, :, None] * h[:, None, :], 0)
    tl.store(grad_router_SER + s.to(tl.int64) * E * R + at_ER, grad_router, mask=in_ER)


def route(h_PR: Tensor, router_ER: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the router's weights and `z = vec(w x h)`.

    The weights have no gradient here, and a 1 behind them: summed, it counts tokens.

    Shapes: (P, R), float32 (E, R) -> float32 (P, E + 1), (P, Z) in ``dtype``.
    """
    return _Route.apply(h_PR, router_ER, dtype)  # type: ignore[return-value]


class _Route(torch.autograd.Function):
    """Keeps h and the router."""

    @staticmethod
    def forward(
        ctx: Any, h_PR: Tensor, router_ER: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        h_PR = h_PR.contiguous()
        ctx.save_for_backward(h_PR, router_ER)
        (P, R), E = h_PR.shape, router_ER.shape[0]
        w_PE1 = torch.empty(P, E + 1, dtype=torch.float32, device=h_PR.device)
        z_PZ = torch.empty(P, E * R, dtype=dtype, device=h_PR.device)
        blocks = _blocks(E, R)
        grid = (triton.cdiv(P, blocks["BLOCK_P"]),)
        launching.launch(_forward, grid, h_PR, router_ER, w_PE1, z_PZ, P, E=E, R=R, **blocks)
        ctx.mark_non_differentiable(w_PE1)
        ctx.set_materialize_grads(False)
        return w_PE1, z_PZ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Any, grad_z_PZ: Tensor) -> tuple[Tensor | None, ...]:
        h_PR, router_ER = ctx.saved_tensors
        (P, R), E = h_PR.shape, router_ER.shape[0]
        blocks = _blocks(E, R)
        parts = triton.cdiv(P, blocks["BLOCK_P"])
        grad_h = torch.empty_like(h_PR)
        grad_router_SER = torch.empty(parts, E, R, dtype=torch.float32, device=h_PR.device)
        launching.launch(
            _backward,
            (parts,),
            *(h_PR, router_ER, grad_z_PZ.contiguous(), grad_h, grad_router_SER, P),
            E=E,
            R=R,
            **blocks,
        )
        grad_router = grad_router_SER.sum(0) if ctx.needs_input_grad[1] else None
        return grad_h, grad_router, None


def _blocks(E: int, R: int) -> dict[str, int]:
    """Return the sizes of a program's blocks."""
    block_E, block_R = power_of_two(E), power_of_two(R)
    block_P = max(1, min(64, _BLOCK // (block_E * block_R)))
    return {"BLOCK_P": block_P, "BLOCK_E": block_E, "BLOCK_R": block_R}
