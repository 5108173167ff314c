"""Word-order shuffling (WOS): neighbouring words change places."""

from __future__ import annotations

from lope_dist.noise.base import NOISE, PairOperation


@NOISE.register("word_order")
@PairOperation
def word_order(first: str, second: str) -> tuple[str, str] | None:
    """Swap the words; the white space between them stays.

    Paper: section 3.2.
    """
    return None if first == second else (second, first)
