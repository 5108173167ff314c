"""Character deletion (CD): a hit word loses one character."""

from __future__ import annotations

import numpy as np

from lope_dist.noise.base import NOISE
from lope_dist.noise.words import draw_hits, graphemes, join_words, split_words


@NOISE.register("char_delete")
def char_delete(text: str, rng: np.random.Generator, rate: float) -> str:
    """Remove one random character of each hit word; a word of one character stays.

    Paper: section 3.2.
    """
    words, gaps = split_words(text)
    if rate == 0 or not words:
        return text
    hits = draw_hits(rng, len(words), rate)
    for index, where in zip(hits, rng.random(len(hits)).tolist(), strict=True):
        parts = graphemes(words[index])
        if len(parts) > 1:
            del parts[int(where * len(parts))]
            words[index] = "".join(parts)
    return join_words(words, gaps)
