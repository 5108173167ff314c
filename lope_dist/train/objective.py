"""The loss: cross-entropy summed over target tokens, or what a stage makes of each token's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lope_dist.corpus.feed.batches import sent
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.model.loss_head import LossHead, Targets


class TokenTerms(Protocol):
    """What a stage's loss makes of the losses of one micro-batch's target tokens."""

    @property
    def smoothing(self) -> float:
        """Share of each target that is spread over the vocabulary."""
        ...

    def sum(self, losses_P: Tensor) -> Tensor:
        """Return a scalar; its gradient goes through each token's loss."""
        ...


def targets_of(labels_NT: Tensor, shift: bool) -> Targets:
    """Return places and labels of the target tokens.

    On the host, before the batch moves: to find them is to wait for the device. With
    ``shift`` (decoder-only models) position t predicts label t + 1.
    """
    if shift:
        labels_NT = F.pad(labels_NT[:, 1:], (0, 1), value=IGNORED)
    labels_Q = labels_NT.flatten()
    (positions_P,) = (labels_Q != IGNORED).nonzero(as_tuple=True)
    return Targets(positions_P, labels_Q[positions_P])


def summed_loss(
    forward: Callable[[], Any],
    head: LossHead | None,
    targets: Targets,
    device: torch.device,
    of_tokens: TokenTerms | None = None,
) -> Tensor:
    """Call the model and return the cross-entropy in nats, summed over target tokens, float32.

    The sum, not the mean: the loop divides by the target tokens of the whole global batch,
    so that neither ranks nor accumulation steps change what a token weighs.

    Args:
        forward: Calls the model, under ZeRO through its engine.
        head: The model's output projection where it computes the loss, chunk by chunk; None
            for a model that changes its logits after it, or has a quantized one.
        targets: What `targets_of` returned.
        device: Where the model computes.
        of_tokens: Given, the sum is of what it makes of each token's loss.
    """
    targets = Targets(*(sent(t, device) for t in targets))
    if of_tokens is not None:
        return of_tokens.sum(_losses(forward, head, targets, of_tokens.smoothing))
    if head is None:
        return summed_cross_entropy(forward().logits, targets)
    with head.answering(targets):
        return forward().logits


@torch.no_grad()
def token_losses(
    forward: Callable[[], Any], head: LossHead | None, targets: Targets, device: torch.device
) -> Tensor:
    """Call the model and return the cross-entropy in nats of each target token, float32 (P,).

    Arguments are those of `summed_loss`; there is no gradient.
    """
    targets = Targets(*(sent(t, device) for t in targets))
    return _losses(forward, head, targets)


def _losses(
    forward: Callable[[], Any], head: LossHead | None, targets: Targets, smoothing: float = 0.0
) -> Tensor:
    """Return the loss of each target token, (P,), with its gradient where there is one."""
    if head is not None:
        with head.answering(targets, per_token=True, smoothing=smoothing):
            return forward().logits
    selected_PV = forward().logits.flatten(0, -2).index_select(0, targets.positions_P)
    return F.cross_entropy(
        selected_PV.float(), targets.labels_P, reduction="none", label_smoothing=smoothing
    )


def summed_cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Return the loss of whole logits.

    Shapes: logits `(N, T, V)`; the result is a scalar. Only rows of targets are copied to
    float32, so prompts and padding cost nothing here.
    """
    if targets.labels_P.numel() == 0:
        # A graph with zero gradients; a sum in float16 would overflow to infinity.
        return logits.sum(dtype=torch.float32) * 0.0
    selected_PV = logits.flatten(0, -2).index_select(0, targets.positions_P)
    return F.cross_entropy(selected_PV.float(), targets.labels_P, reduction="sum")
