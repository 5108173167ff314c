"""Word replacement (WR): a hit word becomes another word."""

from __future__ import annotations

import numpy as np

from lope_dist.noise.base import NOISE
from lope_dist.noise.words import draw_hits, graphemes, join_words, split_words


@NOISE.register("word_replace")
def word_replace(text: str, rng: np.random.Generator, rate: float) -> str:
    """Replace each hit word by another of the text's own distinct words, drawn uniformly.

    The text is its own vocabulary, so the noise needs no word list and fits any language.
    Where all words are the same one, a hit word's characters are shuffled instead.

    Paper: section 4 (ablation); where the new words come from is not given, this is a choice.
    """
    words, gaps = split_words(text)
    if rate == 0 or not words:
        return text
    hits = draw_hits(rng, len(words), rate)
    vocabulary = list(dict.fromkeys(words))
    position = {word: index for index, word in enumerate(vocabulary)}
    for index, draw in zip(hits, rng.random(len(hits)).tolist(), strict=True):
        if len(vocabulary) > 1:
            step = 1 + int(draw * (len(vocabulary) - 1))  # never 0: another word
            words[index] = vocabulary[(position[words[index]] + step) % len(vocabulary)]
        else:
            words[index] = "".join(rng.permutation(np.array(graphemes(words[index]), object)))
    return join_words(words, gaps)
