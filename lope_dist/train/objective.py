"""The loss: cross-entropy summed over target tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100
"""Label of a position that is no target."""


def summed_cross_entropy(logits: Tensor, labels: Tensor, shift: bool) -> Tensor:
    """Return the cross-entropy in nats, summed over target tokens, in float32.

    The sum, not the mean: the loop divides by the target tokens of the whole global batch,
    so that neither ranks nor accumulation steps change what a token weighs.

    Shapes: logits `(N, T, V)`, labels `(N, T)`; the result is a scalar. With ``shift``
    (decoder-only models) position t predicts label t + 1. Only rows of targets are copied
    to float32, so prompts and padding cost nothing here.
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORE
    selected = logits[is_target].float()
    if selected.shape[0] == 0:
        # A graph with zero gradients; a sum in float16 would overflow to infinity.
        return logits.sum(dtype=torch.float32) * 0.0
    return F.cross_entropy(selected, labels[is_target], reduction="sum")
