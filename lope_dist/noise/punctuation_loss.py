"""Punctuation loss: a word without its marks."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation
from lope_dist.noise.words import graphemes


@NOISE.register("punctuation_loss")
@WordOperation
def punctuation_loss(words: Sequence[str], index: int, draw: float) -> str | None:
    """Remove all punctuation of the word; a word of nothing else stays."""
    word = words[index]
    if word.isalnum():
        return None
    kept = "".join(
        part for part in graphemes(word) if not unicodedata.category(part[0]).startswith("P")
    )
    return kept if kept and kept != word else None
