"""Noise-character insertion (NCI): a hit word gains one character."""

from __future__ import annotations

import string

import numpy as np

from lope_dist.noise.base import NOISE
from lope_dist.noise.words import draw_hits, graphemes, join_words, split_words

NOISE_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


@NOISE.register("char_insert")
def char_insert(text: str, rng: np.random.Generator, rate: float) -> str:
    """Insert one ASCII letter, digit or mark at a random place of each hit word.

    Paper: section 3.2; which characters is not given, these are a choice.
    """
    words, gaps = split_words(text)
    if rate == 0 or not words:
        return text
    hits = draw_hits(rng, len(words), rate)
    draws = rng.random((len(hits), 2)).tolist()
    for index, (where, which) in zip(hits, draws, strict=True):
        parts = graphemes(words[index])
        parts.insert(
            int(where * (len(parts) + 1)), NOISE_CHARACTERS[int(which * len(NOISE_CHARACTERS))]
        )
        words[index] = "".join(parts)
    return join_words(words, gaps)
