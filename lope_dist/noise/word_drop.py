"""Dropped word."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation


@NOISE.register("word_drop")
@WordOperation
def word_drop(words: Sequence[str], index: int, draw: float) -> str | None:
    """Drop the word with the white space before it; a text's first word stays."""
    return "" if index > 0 else None
