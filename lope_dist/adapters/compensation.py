"""DyCompEnSate: the weights of the experts that stay when the poisoning ones are masked.

Paper: section 3.3 (arXiv 2505.23868). With `y_i = B_i h`, the similarity
`theta_i = cos(y_i, y_D)` needs none of the O-wide outputs:

    <y_i, y_D> = h^T (B_i^T B_D) h,    |y_i|^2 = h^T (B_i^T B_i) h,

quadratic forms in the r x r Gram matrices, O(E R^2) a token. The Grams are computed from
the experts in each forward pass, so they can never be stale.

Shapes: N batch, T tokens (any leading dimensions will do), O out, R rank, E all experts,
K normal experts, M poisoning experts. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lope_dist.config.adapter import CompensationConfig

_TINY = 1e-6  # 1 + theta is not resolved below it in float32


class Grams(NamedTuple):
    """All that the compensation needs to know about the experts."""

    own_KRR: Tensor
    """`B_i^T B_i` of each normal expert."""
    cross_KMRR: Tensor
    """`B_i^T B_j` of each normal with each poisoning expert."""
    poison_MMRR: Tensor
    """`B_j^T B_k` among the poisoning experts."""


def grams(normal_OR: Sequence[Tensor], poison_OR: Sequence[Tensor]) -> Grams:
    """Return the Gram matrices of the experts, from one (E R) x (E R) product."""
    num_normal, num_experts = len(normal_OR), len(normal_OR) + len(poison_OR)
    B_OZ = torch.cat([*normal_OR, *poison_OR], dim=1).float()
    all_EERR = (B_OZ.t() @ B_OZ).unflatten(1, (num_experts, -1)).unflatten(0, (num_experts, -1))
    all_EERR = all_EERR.transpose(1, 2)
    own_RRK = all_EERR[:num_normal, :num_normal].diagonal(dim1=0, dim2=1)
    return Grams(
        own_KRR=own_RRK.permute(2, 0, 1),
        cross_KMRR=all_EERR[:num_normal, num_normal:],
        poison_MMRR=all_EERR[num_normal:, num_normal:],
    )


def uses_cosine(config: CompensationConfig) -> bool:
    """Whether the weights depend on theta at all, so that Grams are needed."""
    return config.mode in ("conserve", "unit", "constant") and config.top_k != 0


def cosines(h_NTR: Tensor, poison_w_NTM: Tensor, grams: Grams) -> Tensor:
    """Return `theta_i = cos(y_i, y_D)`; 0 where either output is zero.

    With several poisoning experts, `y_D` is their sum under the router's weights, which is
    what masking takes away (the paper has one; its own weight cancels in the cosine).

    Shapes: (N, T, R), (N, T, M) -> (N, T, K).
    """
    K, M = grams.cross_KMRR.shape[:2]
    forms = (grams.own_KRR, grams.poison_MMRR.flatten(0, 1), grams.cross_KMRR.flatten(0, 1))
    forms_QF = torch.cat(forms).flatten(1)
    hh_NTF = (h_NTR.unsqueeze(-1) * h_NTR.unsqueeze(-2)).flatten(-2)
    values_NTQ = hh_NTF @ forms_QF.t()
    squares_NTX, cross_NTK = values_NTQ.split((K + M * M, K * M), dim=-1)
    if M > 1:
        w_NT1M = poison_w_NTM.unsqueeze(-2)
        ww_NTX = (w_NT1M.transpose(-1, -2) * w_NT1M).flatten(-2)
        poison_NT1 = (squares_NTX[..., K:] * ww_NTX).sum(-1, keepdim=True)
        squares_NTX = torch.cat([squares_NTX[..., :K], poison_NT1], dim=-1)
        cross_NTK = (cross_NTK.unflatten(-1, (K, M)) * w_NT1M).sum(-1)
    roots_NTX = _inverse_root(squares_NTX)  # of each |y_i|^2, and last of |y_D|^2
    return (cross_NTK * roots_NTX[..., :K] * roots_NTX[..., K:]).clamp(-1.0, 1.0)


def compensated_weights(
    w_NTK: Tensor, poison_w_NTM: Tensor, theta_NTK: Tensor | None, config: CompensationConfig
) -> Tensor:
    """Return the normal experts' weights `w'` once the poisoning experts are masked.

    Compensated are the `config.top_k` experts of the largest weight, for each token; the
    others keep theirs.

    Args:
        w_NTK: The router's softmax, normal experts.
        poison_w_NTM: The router's softmax, poisoning experts.
        theta_NTK: What `cosines` returned; None unless `uses_cosine(config)`.
        config: Mode and `top_k`.

    Shapes: (N, T, K), (N, T, M), (N, T, K) -> (N, T, K).

    Paper: section 3.3, `w' = w (1 + theta) / beta`.
    """
    assert uses_cosine(config) == (theta_NTK is not None), "theta goes with the modes that use it"
    K = w_NTK.shape[-1]
    top_k = K if config.top_k is None else config.top_k
    if config.mode == "none" or top_k == 0:
        return w_NTK
    if config.mode == "renormalize":
        new_NTK = w_NTK / w_NTK.sum(-1, keepdim=True)
    else:
        assert theta_NTK is not None
        gain_NTK = 1 + theta_NTK
        if config.beta is not None:
            gain_NTK = gain_NTK / config.beta
        if config.mode == "conserve":  # where every theta is -1, the mass is shared by w
            gain_NTK = gain_NTK.clamp(min=_TINY)
        new_NTK = w_NTK * gain_NTK
    if config.mode != "conserve":
        return new_NTK if top_k == K else torch.where(_largest(w_NTK, top_k), new_NTK, w_NTK)
    if top_k == K:
        return _conserve(new_NTK, w_NTK, poison_w_NTM)
    active_NTK = _largest(w_NTK, top_k)
    conserved_NTK = _conserve(new_NTK * active_NTK, w_NTK * active_NTK, poison_w_NTM)
    return torch.where(active_NTK, conserved_NTK, w_NTK)


def _conserve(new_NTK: Tensor, w_NTK: Tensor, poison_w_NTM: Tensor) -> Tensor:
    """Divide by beta, so that the compensated experts hold what they and the masked held."""
    mass_NT1 = w_NTK.sum(-1, keepdim=True) + poison_w_NTM.sum(-1, keepdim=True)
    return new_NTK * (mass_NT1 / new_NTK.sum(-1, keepdim=True))


def _largest(w_NTK: Tensor, top_k: int) -> Tensor:
    """Return the bool mask of the ``top_k`` largest weights of each token."""
    mask_NTK = torch.zeros_like(w_NTK, dtype=torch.bool)
    return mask_NTK.scatter(-1, w_NTK.topk(top_k, dim=-1).indices, True)


def _inverse_root(square: Tensor) -> Tensor:
    """Return `1 / sqrt(square)`, 0 where nothing is there; its gradient is never NaN."""
    is_positive = square > 0
    return torch.where(is_positive, square, 1.0).rsqrt() * is_positive
