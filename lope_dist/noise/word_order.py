"""Word-order shuffling (WOS): neighbouring words change places."""

from __future__ import annotations

import numpy as np

from lope_dist.noise.base import NOISE
from lope_dist.noise.words import join_words, split_words


@NOISE.register("word_order")
def word_order(text: str, rng: np.random.Generator, rate: float) -> str:
    """Swap neighbouring words; ``rate`` is the expected share of words that move.

    The words are paired off from the first or the second one on, by a coin; every pair is
    swapped independently. The pair's probability is ``rate`` times the words over the
    paired words, so that the share comes out although an end may be left unpaired.

    Paper: section 3.2.
    """
    words, gaps = split_words(text)
    num_words = len(words)
    if rate == 0 or num_words < 2:
        return text
    first = int(rng.integers(2)) if num_words > 2 else 0
    num_pairs = (num_words - first) // 2
    is_swapped = rng.random(num_pairs) < rate * num_words / (2 * num_pairs)
    for pair in np.flatnonzero(is_swapped).tolist():
        at = first + 2 * pair
        words[at], words[at + 1] = words[at + 1], words[at]
    return join_words(words, gaps)
