"""The adapter's two matrix products, with as little kept for the backward pass as possible.

Both take the float32 master parameters and cast them inside. Autograd would keep the cast
copies and the dropped-out input; these keep the parameter objects themselves (whose data
ZeRO-3 has gathered again by then) and the input, which the layers that share it share.

On a GPU, dropout is part of the projection's own kernel (`kernels.projection`).

Shapes: P tokens (batch and time flattened), D in, O out, R rank, Z columns of all experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lope_dist.adapters.counter_noise import keep_bits, keep_scale, zero_dropped
from lope_dist.adapters.kernels import launching


def project(
    x_PD: Tensor,
    A_RD: Tensor,
    keys_P: Tensor | None,
    salt: int,
    p: float,
    learns_P: Tensor | None = None,
) -> Tensor:
    """Compute `dropout(x) A^T` in x's dtype; no dropout where ``keys_P`` is None.

    ``learns_P``: from which tokens A gets its gradient; None: from all.

    Shapes: (P, D), (R, D), int32 (P,), bool (P,) -> (P, R).
    """
    return _Project.apply(x_PD, A_RD, keys_P, salt, p, learns_P)  # type: ignore[return-value]


def add_experts(
    y_NTO: Tensor,
    z_PZ: Tensor,
    experts_OR: list[Tensor],
    scale: float,
    learns_PE: Tensor | None = None,
) -> Tensor:
    """Compute `y + scale * z [B_1 ... B_E]^T` as one GEMM that accumulates on y.

    y itself becomes the result, unless it shares its memory, or is a leaf of autograd's.
    ``learns_PE``: from which tokens an expert gets its gradient; None: from all.

    Shapes: (N, T, O), (P, Z = E R), E times (O, R), bool (P, E) -> (N, T, O).
    """
    is_writable = y_NTO.is_contiguous() and not y_NTO._is_view()
    if not is_writable or (y_NTO.is_leaf and y_NTO.requires_grad):
        y_NTO = y_NTO.clone(memory_format=torch.contiguous_format)
    return _AddExperts.apply(y_NTO, z_PZ, scale, learns_PE, *experts_OR)  # type: ignore[return-value]


class _Project(torch.autograd.Function):
    """Keeps x and the keys; the dropout mask is computed again in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x_PD: Tensor,
        A_RD: Tensor,
        keys_P: Tensor | None,
        salt: int,
        p: float,
        learns_P: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x_PD, A_RD, keys_P, learns_P)
        ctx.salt, ctx.p = salt, p
        if keys_P is None:
            return x_PD @ A_RD.to(x_PD.dtype).t()
        if launching.run_on(x_PD, A_RD.shape[0]):
            from lope_dist.adapters.kernels import projection

            return projection.project(x_PD, A_RD, keys_P, salt, p)
        keep_PD = keep_bits(keys_P, salt, x_PD.shape[-1], p)
        return zero_dropped(x_PD, keep_PD) @ (A_RD * keep_scale(p)).to(x_PD.dtype).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_PR: Tensor) -> tuple[Tensor | None, ...]:
        x_PD, A_RD, keys_P, learns_P = ctx.saved_tensors
        needs_x, needs_A = ctx.needs_input_grad[:2]
        parts = ctx, x_PD, A_RD, keys_P
        if learns_P is None or not needs_A:
            grad_x, grad_A = _project_backward(grad_PR, *parts, needs_x, needs_A)
        else:  # A's gradient is of some tokens, x's of all
            grad_x, _ = _project_backward(grad_PR, *parts, needs_x, False)
            learnt_PR = grad_PR * learns_P.unsqueeze(1).to(grad_PR.dtype)
            _, grad_A = _project_backward(learnt_PR, *parts, False, True)
        return grad_x, grad_A, None, None, None, None


def _project_backward(
    grad_PR: Tensor,
    ctx: Any,
    x_PD: Tensor,
    A_RD: Tensor,
    keys_P: Tensor | None,
    needs_x: bool,
    needs_A: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and A, as far as they are needed."""
    grad_x = grad_A = keep_PD = None
    if keys_P is not None and launching.run_on(x_PD, A_RD.shape[0]):
        from lope_dist.adapters.kernels import projection

        return projection.project_backward(
            *(grad_PR, x_PD, A_RD, keys_P, ctx.salt, ctx.p), needs_x=needs_x, needs_A=needs_A
        )
    if keys_P is not None:
        keep_PD = keep_bits(keys_P, ctx.salt, x_PD.shape[-1], ctx.p)
        grad_PR = grad_PR * keep_scale(ctx.p)
    if needs_x:
        grad_x = grad_PR @ A_RD.to(grad_PR.dtype)
        grad_x = grad_x if keep_PD is None else zero_dropped(grad_x, keep_PD)
    if needs_A:
        dropped_PD = x_PD if keep_PD is None else zero_dropped(x_PD, keep_PD)
        grad_A = (grad_PR.t() @ dropped_PD).to(A_RD.dtype)
    return grad_x, grad_A


class _AddExperts(torch.autograd.Function):
    """Keeps z; frozen experts cost no gradient GEMM."""

    @staticmethod
    def forward(
        ctx: Any,
        y_NTO: Tensor,
        z_PZ: Tensor,
        scale: float,
        learns_PE: Tensor | None,
        *experts_OR: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(z_PZ, learns_PE, *experts_OR)
        ctx.mark_dirty(y_NTO)
        ctx.scale = scale
        B_OZ = _stacked(experts_OR).to(z_PZ.dtype)
        y_NTO.view(-1, y_NTO.shape[-1]).addmm_(z_PZ, B_OZ.t(), alpha=scale)
        return y_NTO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NTO: Tensor) -> tuple[Tensor | None, ...]:
        z_PZ, learns_PE, *experts_OR = ctx.saved_tensors
        grad_PO = grad_NTO.flatten(0, -2)
        needs_y, needs_z, _, _, *needs_B = ctx.needs_input_grad
        grad_z = None
        if needs_z:
            B_OZ = _stacked(experts_OR).to(grad_PO.dtype)
            grad_z = (grad_PO @ B_OZ).mul_(ctx.scale)
        grads_B: list[Tensor | None] = [None] * len(experts_OR)
        trained = [i for i, needs in enumerate(needs_B) if needs]
        if trained:
            if learns_PE is not None:
                z_PER = z_PZ.unflatten(1, (len(experts_OR), -1))
                z_PZ = (z_PER * learns_PE.unsqueeze(-1).to(z_PZ.dtype)).flatten(1)
            parts = z_PZ.chunk(len(experts_OR), dim=1)
            z_PW = z_PZ if all(needs_B) else torch.cat([parts[i] for i in trained], dim=1)
            grad_OW = grad_PO.t() @ z_PW
            # In one pass: scaled, cast, and each expert's in memory of its own order, which
            # autograd takes as the parameter's gradient without a copy.
            grads_WOR = grad_OW.new_empty(
                len(trained), *experts_OR[trained[0]].shape, dtype=experts_OR[trained[0]].dtype
            )
            columns_WOR = grad_OW.unflatten(1, (len(trained), -1)).transpose(0, 1)
            torch.mul(columns_WOR, ctx.scale, out=grads_WOR)
            for i, grad_OR in zip(trained, grads_WOR, strict=True):
                grads_B[i] = grad_OR
        return grad_NTO if needs_y else None, grad_z, None, None, *grads_B


def _stacked(experts_OR: Sequence[Tensor]) -> Tensor:
    return experts_OR[0] if len(experts_OR) == 1 else torch.cat(list(experts_OR), dim=1)
