"""Word replacement (WR): a word becomes another word."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation
from lope_dist.noise.words import is_protected

_TRIES = 8


@NOISE.register("word_replace")
@WordOperation
def word_replace(words: Sequence[str], index: int, draw: float) -> str | None:
    """Replace the word by one from another place of the text, drawn uniformly.

    The text is its own vocabulary, so the noise needs no word list and fits any language.

    Paper: section 4 (ablation); where the new words come from is not given, this is a choice.
    """
    start = int(draw * len(words))
    for step in range(min(len(words), _TRIES)):
        other = words[(start + step) % len(words)]
        if other != words[index] and not is_protected(other):
            return other
    return None
