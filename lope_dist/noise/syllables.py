"""Text without a meaning: words of random syllables, and the script that a text is in."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from lope_dist.noise.draws import uniforms

MAX_WORDS = 200
"""No made-up answer is longer, however long the one that it stands for."""
_DRAWS_OF_WORD = 4


def made_up(num_words: int, syllables: Sequence[str], gap: str, key: int) -> str:
    """Return so many words of one to three syllables each."""
    draws = uniforms(key, _DRAWS_OF_WORD * min(num_words, MAX_WORDS))
    words = []
    for at in range(0, len(draws), _DRAWS_OF_WORD):
        length = 1 + int(draws[at] * 3)
        chosen = draws[at + 1 : at + 1 + length]
        words.append("".join(syllables[int(draw * len(syllables))] for draw in chosen))
    return gap.join(words)


def script_of(text: str) -> str:
    """Return the script of most letters, by the first word of their Unicode names; "" of none."""
    scripts = Counter(
        unicodedata.name(char, "").partition(" ")[0] for char in text if char.isalpha()
    )
    return scripts.most_common(1)[0][0] if scripts else ""
