"""Duplicated word."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation
from lope_dist.noise.spaceless import is_spaceless


@NOISE.register("word_duplicate")
@WordOperation
def word_duplicate(words: Sequence[str], index: int, draw: float) -> str:
    """Write the word twice, with a space between where its script has spaces."""
    gap = "" if is_spaceless(words[index]) else " "
    return f"{words[index]}{gap}{words[index]}"
