"""DyCompEnSate: the weights of the experts that stay when the poisoning ones are masked.

Paper: section 3.3 (arXiv 2505.23868). With `y_i = B_i h`, the similarity
`theta_i = cos(y_i, y_D)` needs none of the O-wide outputs:

    <y_i, y_D> = h^T (B_i^T B_D) h,    |y_i|^2 = h^T (B_i^T B_i) h,

quadratic forms in the r x r Gram matrices, O(E R^2) a token. The Grams are computed from
the experts in each forward pass, so they can never be stale; a purified layer has them in the
place of its poisoning experts.

Shapes: N batch, T tokens (any leading dimensions will do), O out, R rank, E all experts,
K normal experts, M poisoning experts, Q Grams of F = R R, P = N T. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from lope_dist.config.adapter import CompensationConfig

TINY = 1e-6  # 1 + theta is not resolved below it in float32
TINY_SQUARE = 1e-24  # of an output's norm; the gradient of 1 / sqrt is still finite there


def grams(normal_OR: Sequence[Tensor], poison_OR: Sequence[Tensor]) -> Tensor:
    """Return all that the compensation needs to know of the experts, from one product.

    Row by row, flattened R x R matrices: `B_i^T B_i` of each normal expert, `B_j^T B_k` of
    each pair of poisoning experts, and `B_i^T B_j` of each normal with each poisoning one.

    Shapes: K times (O, R), M times (O, R) -> float32 (Q = K + M M + K M, R R).
    """
    num_experts = len(normal_OR) + len(poison_OR)
    B_OZ = torch.cat([*normal_OR, *poison_OR], dim=1).float()
    gram_ERER = (B_OZ.t() @ B_OZ).view(num_experts, -1, num_experts, B_OZ.shape[1] // num_experts)
    pairs = _pairs(len(normal_OR), len(poison_OR), B_OZ.device)
    return gram_ERER.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, pairs)


@cache
def _pairs(num_normal: int, num_poison: int, device: torch.device) -> Tensor:
    """Return which of the E x E blocks `grams` keeps, in its order."""
    normal = range(num_normal)
    poison = range(num_normal, num_normal + num_poison)
    pairs = [(i, i) for i in normal]
    pairs += [(j, k) for j in poison for k in poison]
    pairs += [(i, j) for i in normal for j in poison]
    num_experts = num_normal + num_poison
    with torch.inference_mode(False):  # kept, and training may use it after an evaluation
        return torch.tensor([i * num_experts + j for i, j in pairs], device=device)


def uses_cosine(config: CompensationConfig) -> bool:
    """Whether the weights depend on theta at all, so that Grams are needed."""
    return config.mode in ("conserve", "unit", "constant") and config.top_k != 0


def cosines(h_NTR: Tensor, poison_w_NTM: Tensor, grams_QF: Tensor) -> Tensor:
    """Return `theta_i = cos(y_i, y_D)`; 0 where either output is zero.

    With several poisoning experts, `y_D` is their sum under the router's weights, which is
    what masking takes away (the paper has one; its own weight cancels in the cosine).

    Shapes: (N, T, R), (N, T, M), what `grams` returned -> (N, T, K).
    """
    M = poison_w_NTM.shape[-1]
    K = (grams_QF.shape[0] - M * M) // (1 + M)
    # Tokens come last: rows of thousands are fast, rows of K = 3 are not.
    h_RP = h_NTR.flatten(0, -2).t().contiguous()
    hh_FP = (h_RP.unsqueeze(1) * h_RP.unsqueeze(0)).flatten(0, 1)
    squares_XP, cross_KP = (grams_QF @ hh_FP).split((K + M * M, K * M))
    if M > 1:
        w_MP = poison_w_NTM.flatten(0, -2).t()
        ww_XP = (w_MP.unsqueeze(1) * w_MP.unsqueeze(0)).flatten(0, 1)
        poison_1P = (squares_XP[K:] * ww_XP).sum(0, keepdim=True)
        squares_XP = torch.cat([squares_XP[:K], poison_1P])
        cross_KP = (cross_KP.unflatten(0, (K, M)) * w_MP).sum(1)
    # Of each |y_i|^2, and last of |y_D|^2. Where one is zero, so is the cross product, and the
    # bound keeps the root and its gradient finite.
    roots_XP = squares_XP.clamp_min(TINY_SQUARE).rsqrt()
    theta_KP = (cross_KP * roots_XP[:K] * roots_XP[K:]).clamp(-1.0, 1.0)
    return theta_KP.t().unflatten(0, h_NTR.shape[:-1])


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
            gain_NTK = gain_NTK.clamp(min=TINY)
        new_NTK = w_NTK * gain_NTK
    if config.mode != "conserve":
        return new_NTK if top_k == K else torch.where(_largest(w_NTK, top_k), new_NTK, w_NTK)
    if top_k == K:
        return new_NTK / new_NTK.sum(-1, keepdim=True)  # all weights together are 1
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
