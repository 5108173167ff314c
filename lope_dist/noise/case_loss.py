"""Case loss: capitals become small letters."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation


@NOISE.register("case_loss")
@WordOperation
def case_loss(words: Sequence[str], index: int, draw: float) -> str | None:
    """Write the word in small letters."""
    lower = words[index].lower()
    return None if lower == words[index] else lower
