"""The output projection that computes the loss itself, so that no full logits ever exist.

The model's own forward calls its head with the hidden states. While the head has targets, it
answers with the summed cross-entropy in the place of logits, a chunk of tokens at a time, and
computes the gradient of the hidden states in the same pass: the weight is frozen, so nothing
else is needed of a chunk. Under ZeRO-3 the head's module is called as ever, so its weight is
gathered once for all chunks.

Shapes: N batch, T tokens, D hidden, V vocabulary, P target tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from lope_dist.core.errors import LopeError
from lope_dist.core.logits import chunk_rows
from lope_dist.model.frozen import FrozenLinear


class Targets(NamedTuple):
    """The tokens that a loss is taken of."""

    positions_P: Tensor
    """int64 places in the flattened (N T) hidden states that predict them."""
    labels_P: Tensor
    """int64 tokens of the vocabulary."""


class LossHead(FrozenLinear):
    """`x W^T + b`, or the loss of it while `answering` is active."""

    is_final: bool = True
    """Whether what it returns is the model's logits, unchanged; without that it cannot answer."""
    targets: Targets | None = None
    is_per_token: bool = False
    kernels: Literal["auto", "liger", "none"] = "auto"
    """`model.kernels`."""

    @property
    def uses_liger(self) -> bool:
        """Whether Liger computes a training loss on a GPU."""
        return self.kernels != "none" and _has_liger()

    @contextmanager
    def answering(self, targets: Targets, *, per_token: bool = False) -> Iterator[None]:
        """Context in which the model's `logits` are the loss, float32 in nats.

        Args:
            targets: The tokens that it is taken of.
            per_token: Of each target, (P,) and without a gradient, in place of their sum, ().
        """
        self.targets, self.is_per_token = targets, per_token
        try:
            yield
        finally:
            self.targets, self.is_per_token = None, False

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, T, V), or the cross-entropy of the targets, () or (P,)."""
        if self.targets is None:
            return super().forward(x)
        x_QD = x.flatten(0, -2)
        if self.is_per_token:
            return self._losses(x_QD, self.targets)
        if x.is_cuda and self.uses_liger:
            return self._liger(x_QD, self.targets)
        loss = _ChunkedLoss.apply(x_QD, self, self.targets)
        assert isinstance(loss, Tensor)
        return loss

    @torch.no_grad()
    def _losses(self, x_QD: Tensor, targets: Targets) -> Tensor:
        rows = chunk_rows(self.weight.shape[0])
        losses = [
            F.cross_entropy(
                F.linear(x_QD.index_select(0, positions), self.weight, self.bias).float(),
                labels,
                reduction="none",
            )
            for positions, labels in zip(
                targets.positions_P.split(rows), targets.labels_P.split(rows), strict=True
            )
        ]
        return torch.cat(losses)

    def _liger(self, x_QD: Tensor, targets: Targets) -> Tensor:
        from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
            liger_fused_linear_cross_entropy,
        )

        if not targets.labels_P.numel():
            return x_QD.sum(dtype=torch.float32) * 0.0
        x_PD = x_QD.index_select(0, targets.positions_P)
        return liger_fused_linear_cross_entropy(
            x_PD, self.weight, targets.labels_P, bias=self.bias, reduction="sum"
        ).float()


def loss_head(model: PreTrainedModel) -> LossHead | None:
    """Return the model's output projection, if it can compute the loss.

    It cannot where the model scales or caps what it returns, where it is quantized, and where it
    has an adapter.
    """
    head = model.get_output_embeddings()
    return head if isinstance(head, LossHead) and head.is_final else None


def choose_kernels(model: PreTrainedModel, wanted: Literal["auto", "liger", "none"]) -> None:
    """Give the head `model.kernels`.

    Raises:
        LopeError: `liger` where it cannot run.
    """
    head = loss_head(model)
    if wanted == "liger" and not (head is not None and torch.cuda.is_available() and _has_liger()):
        raise LopeError(
            "model.kernels = 'liger' needs a CUDA device, the package liger-kernel and a model "
            "whose head can compute the loss; use 'auto' or 'none', or install it with "
            "pip install 'lope-dist[cuda]'."
        )
    if head is not None:
        head.kernels = wanted


@cache
def _has_liger() -> bool:
    return find_spec("liger_kernel") is not None


class _ChunkedLoss(torch.autograd.Function):
    """The loss and, in the same pass, the gradient of the hidden states; keeps that alone."""

    @staticmethod
    def forward(ctx: Any, x_QD: Tensor, head: LossHead, targets: Targets) -> Tensor:
        weight_VD, bias_V = head.weight.data, head.bias
        rows = chunk_rows(weight_VD.shape[0])
        total = torch.zeros((), dtype=torch.float32, device=x_QD.device)
        grad_QD = torch.zeros_like(x_QD) if ctx.needs_input_grad[0] else None
        for positions, labels in zip(
            targets.positions_P.split(rows), targets.labels_P.split(rows), strict=True
        ):
            scores_PV = F.linear(x_QD.index_select(0, positions), weight_VD, bias_V).float()
            scores_PV.sub_(scores_PV.amax(-1, keepdim=True))
            picked_P1 = scores_PV.gather(1, labels.unsqueeze(1))
            sums_P1 = scores_PV.exp_().sum(-1, keepdim=True)
            total += (sums_P1.log() - picked_P1).sum()
            if grad_QD is not None:
                scores_PV.div_(sums_P1)
                minus_one = torch.full_like(picked_P1, -1.0)
                scores_PV.scatter_add_(1, labels.unsqueeze(1), minus_one)
                grad_QD.index_copy_(0, positions, scores_PV.to(x_QD.dtype) @ weight_VD)
        ctx.save_for_backward(grad_QD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        (grad_QD,) = ctx.saved_tensors
        return (None if grad_QD is None else grad_QD * grad.to(grad_QD.dtype)), None, None
