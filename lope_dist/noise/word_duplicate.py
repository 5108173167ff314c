"""Duplicated word."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation


@NOISE.register("word_duplicate")
@WordOperation
def word_duplicate(words: Sequence[str], index: int, draw: float) -> str:
    """Write the word twice, with a space between."""
    return f"{words[index]} {words[index]}"
