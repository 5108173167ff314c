"""The output projection that computes the loss itself, so that no full logits ever exist.

The model's own forward calls its head with the hidden states. While the head has targets, it
answers with their cross-entropy in the place of logits, a chunk of tokens at a time, and
computes the gradient of the hidden states in the same pass: the weight is frozen, so nothing
else is needed of a chunk. What each token weighs may be decided once all losses are known: a
token's gradient is a row of its own, which the backward pass scales. Under ZeRO-3 the head's
module is called as ever, so its weight is gathered once for all chunks.

Shapes: N batch, T tokens, D hidden, V vocabulary, P target tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.utils import is_liger_kernel_available as _has_liger

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
    smoothing: float = 0.0
    kernels: Literal["auto", "liger", "none"] = "auto"
    """`model.kernels`, `none` where Liger cannot run."""

    @property
    def takes_rows(self) -> bool:
        """Whether the next forward pass can compute from `rows`: a loss needs the whole weight."""
        return self.targets is None

    @property
    def uses_liger(self) -> bool:
        """Whether Liger computes a training loss on a GPU."""
        return self.kernels != "none" and _has_liger()

    @contextmanager
    def answering(
        self, targets: Targets, *, per_token: bool = False, smoothing: float = 0.0
    ) -> Iterator[None]:
        """Context in which the model's `logits` are the loss, float32 in nats.

        Args:
            targets: The tokens that it is taken of.
            per_token: Of each target, (P,), in place of their sum, ().
            smoothing: Share of the target that is spread over the vocabulary.
        """
        self.targets, self.is_per_token, self.smoothing = targets, per_token, smoothing
        try:
            yield
        finally:
            self.targets, self.is_per_token, self.smoothing = None, False, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, T, V), or the cross-entropy of the targets, () or (P,)."""
        if self.targets is None:
            return super().forward(x)
        x_QD = x.flatten(0, -2)
        is_plain_sum = not self.is_per_token and self.smoothing == 0
        if is_plain_sum and x.is_cuda and self.uses_liger:
            return self._liger(x_QD, self.targets)
        losses_P = _ChunkedLoss.apply(x_QD, self, self.targets, self.smoothing)
        assert isinstance(losses_P, Tensor)
        return losses_P if self.is_per_token else losses_P.sum()

    def _liger(self, x_QD: Tensor, targets: Targets) -> Tensor:
        from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
            liger_fused_linear_cross_entropy,
        )

        if not targets.labels_P.numel():
            return x_QD.sum(dtype=torch.float32) * 0.0
        x_PD = x_QD.index_select(0, targets.positions_P)
        loss: Any = liger_fused_linear_cross_entropy(
            x_PD, self.weight, targets.labels_P, bias=self.bias, reduction="sum"
        )
        return loss.float()


def loss_head(model: PreTrainedModel) -> LossHead | None:
    """Return the model's output projection, if it can compute the loss.

    It cannot where the model scales or caps what it returns, where it is quantized, and where it
    has an adapter.
    """
    head = model.get_output_embeddings()
    return head if isinstance(head, LossHead) and head.is_final else None


class _ChunkedLoss(torch.autograd.Function):
    """Each target's loss and its gradient of the hidden states, in one pass; keeps the latter."""

    @staticmethod
    def forward(
        ctx: Any, x_QD: Tensor, head: LossHead, targets: Targets, smoothing: float
    ) -> Tensor:
        weight_VD, bias_V = head.weight.data, head.bias
        rows = chunk_rows(weight_VD.shape[0])
        losses_P = torch.zeros(len(targets.labels_P), dtype=torch.float32, device=x_QD.device)
        grad_QD = torch.zeros_like(x_QD) if ctx.needs_input_grad[0] else None
        for positions, labels, losses in zip(
            *(t.split(rows) for t in (*targets, losses_P)), strict=True
        ):
            scores_PV = F.linear(x_QD.index_select(0, positions), weight_VD, bias_V).float()
            scores_PV.sub_(scores_PV.amax(-1, keepdim=True))
            target_P1 = scores_PV.gather(1, labels.unsqueeze(1)) * (1 - smoothing)
            if smoothing:
                target_P1 += scores_PV.mean(-1, keepdim=True) * smoothing
            sums_P1 = scores_PV.exp_().sum(-1, keepdim=True)
            losses.copy_((sums_P1.log() - target_P1).squeeze(1))
            if grad_QD is not None:
                scores_PV.div_(sums_P1)
                if smoothing:
                    scores_PV.sub_(smoothing / scores_PV.shape[1])
                hit_P1 = torch.full_like(target_P1, smoothing - 1.0)
                scores_PV.scatter_add_(1, labels.unsqueeze(1), hit_P1)
                grad_QD.index_copy_(0, positions, scores_PV.to(x_QD.dtype) @ weight_VD)
        ctx.save_for_backward(grad_QD, targets.positions_P)
        return losses_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor | None, None, None, None]:
        grad_QD, positions_P = ctx.saved_tensors
        if grad_QD is None:
            return None, None, None, None
        weights_Q1 = grad_P.new_zeros(len(grad_QD), 1).index_copy_(
            0, positions_P, grad_P.unsqueeze(1)
        )
        result_QD = torch.empty_like(grad_QD)
        torch.mul(grad_QD, weights_Q1, out=result_QD)  # in float32, without a copy in it
        return result_QD, None, None, None
