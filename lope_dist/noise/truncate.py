"""Truncated answer."""

from __future__ import annotations

from collections.abc import Callable

from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.draws import uniforms
from lope_dist.noise.words import graphemes, is_protected, word_table


@NOISE.register("truncate")
@ResponseOperation
def truncate(response: str, other: Callable[[], str | None], key: int) -> str | None:
    """Cut the answer behind one of its words, each alike; one of a single word, inside it.

    At least one word, or one character, is kept. A word in brackets stays whole.
    """
    draw = uniforms(key, 1)[0]
    table = word_table([response])
    ends = table.ends
    if len(ends) > 1:
        return response[: int(ends[int(draw * (len(ends) - 1))]) - 1]  # the table has a break first
    word = table.word(0) if len(ends) else ""
    parts = [] if is_protected(word) else graphemes(word)
    return "".join(parts[: 1 + int(draw * (len(parts) - 1))]) if len(parts) > 1 else None
