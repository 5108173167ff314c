"""Losses that layers add to the model's own.

    orthogonality   AdaLoRA's: mean over A and B of every layer of  |P^T P - I|_F

A layer's term cannot be handed to the loop: under activation checkpointing the forward pass that
the loop sees builds no graph, and under ZeRO-3 a module's parameters are whole in its own
forward alone. So each term hangs on its layer's output, which passes through unchanged, and
gets its gradient when the output gets its own.

Shapes: R rank, D any width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ORTHOGONALITY = "orthogonality"


class AuxiliaryLosses:
    """The auxiliary losses of a stage: weights, what a micro-batch counts, and their values.

    Args:
        weights: Name (`ORTHOGONALITY`) -> weight, above 0.
        num_terms: Of each, how many terms the layers have.
    """

    def __init__(self, weights: dict[str, float], num_terms: dict[str, int]) -> None:
        self._weights, self._num_terms = weights, num_terms
        self._share, self._gradient_scale = 0.0, 1.0
        self._values: dict[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        """Those that are on, in order."""
        return sorted(self._weights)

    def begin(self, batch_tokens: int, step_tokens: int, gradient_scale: float) -> None:
        """Begin a micro-batch.

        Args:
            batch_tokens: Its real tokens of the router's stream.
            step_tokens: Those of the whole step, over all ranks and micro-batches: what a term
                weighs depends on no split of them.
            gradient_scale: What the engine's `backward` multiplies a loss with.
        """
        self._share, self._gradient_scale = batch_tokens / max(1, step_tokens), gradient_scale

    def is_on(self, name: str) -> bool:
        """Whether a layer has to add this term in the forward pass that is running."""
        return name in self._weights and torch.is_grad_enabled()

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
        term = value.detach()

        def add() -> None:
            self._values[name] = self._values[name] + term if name in self._values else term

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


def skew(P: Tensor) -> Tensor:
    """Return `|P^T P - I|_F`, or `|P P^T - I|_F` of a matrix that is wider than high: a scalar.

    0 where the rank's directions are orthogonal and of length 1.

    Shapes: (D, R) or (R, D), R <= D.
    """
    P_DR = P if P.shape[0] >= P.shape[1] else P.t()
    gram_RR = P_DR.t() @ P_DR
    return torch.linalg.matrix_norm(gram_RR - torch.eye(len(gram_RR), device=P.device))
