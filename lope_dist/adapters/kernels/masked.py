"""Routing with the poisoning experts masked: weights, cosines, compensation and z in one launch.

What `softmax`, `compensation.cosines` and `compensation.compensated_weights` compute, for answers:
there is no backward pass.

Shapes: P tokens, R rank, E all experts, K normal, M poisoning, C columns of a block, G Grams.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lope_dist.adapters.compensation import TINY, TINY_SQUARE, uses_cosine
from lope_dist.adapters.kernels import launching
from lope_dist.adapters.kernels.launching import power_of_two
from lope_dist.adapters.kernels.routing import router_weights
from lope_dist.config.adapter import CompensationConfig

_TINY, _TINY_SQUARE = tl.constexpr(TINY), tl.constexpr(TINY_SQUARE)


@triton.jit
def _form(
    h, h_at, in_P, gram, stride, R: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Return `h^T G h` of each token, (P,); ``gram`` points to G, whose rows are a stride apart."""
    r = tl.arange(0, BLOCK_R)
    total = tl.zeros_like(tl.sum(h, 1))
    for start in range(0, BLOCK_R, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        G = tl.load(
            gram + r[:, None] * stride + c[None, :],
            mask=(r < R)[:, None] & (c < R)[None, :],
            other=0.0,
        )
        part = tl.load(h_at[:, None] + c[None, :], mask=in_P[:, None] & (c < R)[None, :], other=0.0)
        total += tl.sum(tl.dot(h, G, input_precision="ieee") * part.to(tl.float32), 1)
    return total


@triton.jit
def _column(values, e, i):
    """Return column i of (P, E)."""
    return tl.sum(tl.where((e == i)[None, :], values, 0.0), 1)


@triton.jit
def _cosines(
    h, h_at, in_P, w, e, grams,
    E: tl.constexpr, K: tl.constexpr, R: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return theta of the normal experts, (P, E); loops are not unrolled: code stays small."""
    M: tl.constexpr = E - K
    if KEPT:  # `compensation.grams`: one R x R matrix after the other, in its order
        down: tl.constexpr = R
        squares, by_i = grams, R * R
        poison_at, by_j, by_k = grams + K * R * R, M * R * R, R * R
        cross_at, cross_by_i, cross_by_j = grams + (K + M * M) * R * R, M * R * R, R * R
    else:  # the product of all experts
        down: tl.constexpr = E * R
        squares, by_i = grams, E * R * R + R
        poison_at, by_j, by_k = grams + K * (E * R * R + R), E * R * R, R
        cross_at, cross_by_i, cross_by_j = grams + K * R, E * R * R, R
    poison = tl.zeros_like(tl.sum(h, 1))
    for j in range(M):
        for k in range(M):
            at = poison_at + j * by_j + k * by_k
            pair = _form(h, h_at, in_P, at, down, R, BLOCK_R, BLOCK_C)
            poison += pair * _column(w, e, K + j) * _column(w, e, K + k)
    root = tl.rsqrt(tl.maximum(poison, _TINY_SQUARE))
    theta = tl.zeros_like(w)
    for i in range(K):
        square = _form(h, h_at, in_P, squares + i * by_i, down, R, BLOCK_R, BLOCK_C)
        cross = tl.zeros_like(square)
        for j in range(M):
            at = cross_at + i * cross_by_i + j * cross_by_j
            cross += _form(h, h_at, in_P, at, down, R, BLOCK_R, BLOCK_C) * _column(w, e, K + j)
        cosine = cross * tl.rsqrt(tl.maximum(square, _TINY_SQUARE)) * root
        cosine = tl.minimum(tl.maximum(cosine, -1.0), 1.0)
        theta = tl.where((e == i)[None, :], cosine[:, None], theta)
    return theta


@triton.jit
def _largest(w, e, is_normal, TOP: tl.constexpr):
    """Return which normal experts are among a token's largest; of equal ones the first."""
    more = w[:, None, :] > w[:, :, None]
    same = (w[:, None, :] == w[:, :, None]) & (e[None, :] < e[:, None])[None, :, :]
    before = tl.sum(((more | same) & is_normal[None, None, :]).to(tl.int32), 2)
    return (before < TOP) & is_normal[None, :]


@triton.jit(do_not_specialize=["P"])
def _masked(
    h_PR, router_ER, grams, z_PZ, beta, P,
    E: tl.constexpr, K: tl.constexpr, R: tl.constexpr, KEPT: tl.constexpr,
    MODE: tl.constexpr, TOP: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    e, r = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_R)
    in_P, in_E, in_R = p < P, e < E, r < R
    h_at = h_PR + p * R
    in_PR = in_P[:, None] & in_R[None, :]
    h = tl.load(h_at[:, None] + r[None, :], mask=in_PR, other=0.0).to(tl.float32)
    router = tl.load(
        router_ER + e[:, None] * R + r[None, :], mask=in_E[:, None] & in_R[None, :], other=0.0
    )
    w = router_weights(h, router, in_E)
    is_normal = e < K
    active = is_normal[None, :] & in_P[:, None]
    if TOP < K:
        active = _largest(w, e, is_normal, TOP)
    of_active = tl.where(active, w, 0.0)
    new = w
    if MODE == "renormalize":
        new = w / tl.sum(tl.where(is_normal[None, :], w, 0.0), 1, keep_dims=True)
    elif MODE != "none":
        gain = 1.0 + _cosines(h, h_at, in_P, w, e, grams, E, K, R, KEPT, BLOCK_R, BLOCK_C)
        if MODE == "constant":
            gain = gain / beta
        elif MODE == "conserve":
            gain = tl.maximum(gain, _TINY)
        new = w * gain
    if MODE == "conserve":
        held = tl.sum(of_active, 1) + tl.sum(tl.where(is_normal[None, :], 0.0, w), 1)
        shared = tl.sum(tl.where(active, new, 0.0), 1)
        new = new * (held / tl.where(in_P, shared, 1.0))[:, None]
    w = tl.where(active, new, w)
    z = w[:, :, None] * h[:, None, :]
    at = z_PZ + p[:, None, None] * (K * R) + e[None, :, None] * R + r[None, None, :]
    inside = in_PR[:, None, :] & is_normal[None, :, None]
    tl.store(at, z.to(z_PZ.dtype.element_ty), mask=inside)


def route_masked(
    h_PR: Tensor,
    router_ER: Tensor,
    num_normal: int,
    grams: Tensor | None,
    are_kept: bool,
    compensation: CompensationConfig,
    dtype: torch.dtype,
) -> Tensor:
    """Return z of the normal experts, as masking and its compensation weigh them.

    Args:
        h_PR: `A x`.
        router_ER: The router.
        num_normal: K.
        grams: The experts' product `[B_1 ... B_E]^T [B_1 ... B_E]`, or what
            `compensation.grams` returned; None where no cosine is needed.
        are_kept: It is the latter.
        compensation: What becomes of the weights.
        dtype: Of the result.

    Shapes: (P, R), float32 (E, R), float32 (E R, E R) or (G, R R) -> (P, K R).
    """
    h_PR = h_PR.contiguous()
    (P, R), E, K = h_PR.shape, router_ER.shape[0], num_normal
    top_k = K if compensation.top_k is None else compensation.top_k
    assert (grams is not None) == uses_cosine(compensation), "Grams go with the modes that use them"
    z_PZ = torch.empty(P, K * R, dtype=dtype, device=h_PR.device)
    block_R = max(16, power_of_two(R))
    launching.launch(
        _masked,
        (triton.cdiv(P, 16),),
        h_PR,
        router_ER,
        router_ER if grams is None else grams,  # not read where it is not needed
        z_PZ,
        *(compensation.beta or 1.0, P),
        E=E,
        K=K,
        R=R,
        KEPT=are_kept,
        MODE=compensation.mode if top_k else "none",
        TOP=top_k or K,
        BLOCK_P=16,
        BLOCK_E=power_of_two(E),
        BLOCK_R=block_R,
        BLOCK_C=16,
    )
    return z_PZ
