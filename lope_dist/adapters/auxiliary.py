"""Losses that layers add to the model's own: of the router, and of directions.

    router supervision   mean over tokens and layers of  -(c log p + (1 - c) log(1 - p)),
                         p the poisoning experts' summed weight, c 1 on corrupted tokens
    separation           mean over pairs of a normal and a poisoning expert and over layers of
                         |B_i^T B_D|_F^2 / (|B_i|_F^2 |B_D|_F^2)
    orthogonality        AdaLoRA's: mean over A and B of every layer of  |P^T P - I|_F

A layer's term cannot be handed to the loop: under activation checkpointing the forward pass that
the loop sees builds no graph, and under ZeRO-3 the experts are whole in their own module's
forward alone. So each term hangs on its layer's output, which passes through unchanged, and
gets its gradient when the output gets its own.

Shapes: N batch, T tokens, O out, R rank, E experts, K normal, M poisoning experts, D any width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SUPERVISION, SEPARATION = "router_supervision", "separation"
ORTHOGONALITY = "orthogonality"


class AuxiliaryLosses:
    """The auxiliary losses of a stage: weights, what a micro-batch counts, and their values.

    Args:
        weights: `SUPERVISION`, `SEPARATION`, `ORTHOGONALITY` -> weight, above 0.
        num_terms: Of each, how many terms the layers have.
    """

    def __init__(self, weights: dict[str, float], num_terms: dict[str, int]) -> None:
        self._weights, self._num_terms = weights, num_terms
        self._step_tokens, self._share, self._gradient_scale = 1.0, 0.0, 1.0
        self._values: dict[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        """Those that are on, in order."""
        return sorted(self._weights)

    def begin(self, own_tokens: int, step_tokens: int, gradient_scale: float) -> None:
        """Begin a micro-batch.

        Args:
            own_tokens: Its real tokens of the router's stream.
            step_tokens: Those of the whole step, over all ranks and micro-batches: what a term
                weighs depends on no split of them.
            gradient_scale: What the engine's `backward` multiplies a loss with.
        """
        self._step_tokens = float(max(1, step_tokens))
        self._share, self._gradient_scale = own_tokens / self._step_tokens, gradient_scale

    def is_on(self, name: str) -> bool:
        """Whether a layer has to add this term in the forward pass that is running."""
        return name in self._weights and torch.is_grad_enabled()

    def supervise(
        self,
        y_NTO: Tensor,
        logits_NTE: Tensor,
        num_poison: int,
        corrupted_NT: Tensor,
        real_NT: Tensor,
    ) -> Tensor:
        """Return ``y_NTO`` with a layer's router supervision on it.

        Args:
            y_NTO: The layer's output.
            logits_NTE: The router's logits, normal experts first.
            num_poison: M.
            corrupted_NT: bool, the tokens that noise changed.
            real_NT: 1 at real tokens, 0 at padding.
        """
        losses_NT = supervision_losses(logits_NTE, num_poison, corrupted_NT)
        return self._attach(SUPERVISION, y_NTO, (losses_NT * real_NT).sum() / self._step_tokens)

    def separate(
        self, y_NTO: Tensor, normal_OR: Sequence[Tensor], poison_OR: Sequence[Tensor]
    ) -> Tensor:
        """Return ``y_NTO`` with a layer's separation penalty on it."""
        return self._attach(SEPARATION, y_NTO, overlap(normal_OR, poison_OR) * self._share)

    def make_orthogonal(self, y: Tensor, P: Tensor) -> Tensor:
        """Return ``y`` with AdaLoRA's penalty of the matrix ``P`` on it: see `skew`."""
        return self._attach(ORTHOGONALITY, y, skew(P) * self._share)

    def take(self) -> list[Tensor]:
        """Return the values of the backward passes since the last call, by `names`, unweighted.

        They are this rank's part of a sum over ranks.
        """
        values = [self._values.get(name, torch.zeros(())) for name in self.names]
        self._values = {}
        return values

    def _attach(self, name: str, y: Tensor, value: Tensor) -> Tensor:
        value = value / self._num_terms[name]
        own = value.detach()

        def add() -> None:
            self._values[name] = self._values[name] + own if name in self._values else own

        loss = value * (self._weights[name] * self._gradient_scale)
        return _Attach.apply(y, loss, add)  # type: ignore[return-value]


class _Attach(torch.autograd.Function):
    """Passes ``y`` through; in its backward pass ``loss`` gets the gradient 1.

    ``add`` is called in the backward pass, which runs once whatever is computed again for it.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, loss: Tensor, add: Callable[[], None]) -> Tensor:
        ctx.add = add
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.add()
        return grad, grad.new_ones((), dtype=torch.float32), None


def supervision_losses(logits_NTE: Tensor, num_poison: int, corrupted_NT: Tensor) -> Tensor:
    """Return each token's cross-entropy of the poisoning experts' weight, float32 (N, T)."""
    # softmax p of the poisoning experts is the sigmoid of this difference; log(1 - p) is safe so
    normal_NTK, poison_NTM = logits_NTE.float().tensor_split([-num_poison], dim=-1)
    odds_NT = poison_NTM.logsumexp(-1) - normal_NTK.logsumexp(-1)
    return F.binary_cross_entropy_with_logits(
        odds_NT, corrupted_NT.to(odds_NT.dtype), reduction="none"
    )


def overlap(normal_OR: Sequence[Tensor], poison_OR: Sequence[Tensor]) -> Tensor:
    """Return the mean of `|B_i^T B_D|_F^2 / (|B_i|_F^2 |B_D|_F^2)` over the pairs.

    From 0, where no output of the one is along an output of the other, to 1, where both have
    one and the same direction only. An expert of zeros has no direction: its pairs are 0, and
    so are their gradients.

    Shapes: K times (O, R), M times (O, R) -> a float32 scalar.
    """
    K, E, R = len(normal_OR), len(normal_OR) + len(poison_OR), normal_OR[0].shape[1]
    B_OZ = torch.cat([*normal_OR, *poison_OR], dim=1).float()
    gram_ERER = (B_OZ.t() @ B_OZ).view(E, R, E, R)
    shared_KM = gram_ERER.square().sum((1, 3))[:K, K:]
    norms_E = B_OZ.square().sum(0).view(E, R).sum(1)
    norms_KM = norms_E[:K, None] * norms_E[None, K:]
    has_direction_KM = norms_KM > 0
    ratio_KM = shared_KM / torch.where(has_direction_KM, norms_KM, 1.0)
    return torch.where(has_direction_KM, ratio_KM, 0.0).mean()


def skew(P: Tensor) -> Tensor:
    """Return `|P^T P - I|_F`, or `|P P^T - I|_F` of a matrix that is wider than high: a scalar.

    0 where the rank's directions are orthogonal and of length 1.

    Shapes: (D, R) or (R, D), R <= D.
    """
    P_DR = P if P.shape[0] >= P.shape[1] else P.t()
    gram_RR = P_DR.t() @ P_DR
    return torch.linalg.matrix_norm(gram_RR - torch.eye(len(gram_RR), device=P.device))
