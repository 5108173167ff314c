"""Logits of the tokens that a request asks about, and of no others.

A choice of a few tokens behind a long question needs a few rows of logits. A vocabulary of 128,000
takes 256 KB a token, so all of them are most of what an answer takes beside the weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lope_dist.evaluate.harness.batching import Encoded

_TRIED = 3
_TOLERANCE = 1e-2  # of the largest logit: a product of fewer rows may round another way


def trims_logits(model: Any, logits_of: Callable[..., Tensor], all_logits: Tensor) -> bool:
    """Return whether the model, asked for the last logits alone, gives those: measured.

    Args:
        model: A decoder; one that has an encoder is never trimmed.
        logits_of: Asks the model a fixed question, with options of its forward pass.
        all_logits: What it gives without options, (1, T, V).

    Collective: yes, where the model is spread over ranks.
    """
    parameters = inspect.signature(model.forward).parameters
    if model.config.is_encoder_decoder or "logits_to_keep" not in parameters:
        return False
    if all_logits.shape[1] <= _TRIED:
        return False
    last, expected = logits_of(logits_to_keep=_TRIED), all_logits[:, -_TRIED:]
    if last.shape != expected.shape:
        return False
    return bool(((last - expected).abs() <= _TOLERANCE * expected.abs().max()).all())


def first_needed(requests: Sequence[Encoded], max_length: int) -> int:
    """Return the first position whose logits some request of a batch asks for.

    The rows of a batch are padded on the right, and cut on the left to ``max_length``.
    """
    starts = []
    for _, context, continuation in requests:
        length = min(len(context) + len(continuation) - 1, max_length)
        starts.append(length - len(continuation))
    return max(0, min(starts))
