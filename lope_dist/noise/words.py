"""Text -> words and the white space around them -> the same text; words -> graphemes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import regex

_NO_SPACE = re.compile(r"\S+")
# White space that is part of a grapheme (a space that carries an accent) belongs to a word.
_BOUND_SPACE = regex.compile(r"\p{GCB=Prepend}\s|\s[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]")


def split_words(text: str) -> tuple[list[str], list[str]]:
    """Return the words and the white space before, between and after them.

    There is one gap more than there are words; `join_words` gives the text back.
    """
    if not text.isascii() and _BOUND_SPACE.search(text):
        return _split_by_grapheme(text)
    return text.split(), _NO_SPACE.split(text)


def join_words(words: Sequence[str], gaps: Sequence[str]) -> str:
    """Return the text of words and gaps."""
    parts = [""] * (len(words) + len(gaps))
    parts[0::2], parts[1::2] = gaps, words
    return "".join(parts)


def graphemes(text: str) -> list[str]:
    """Return the text's extended grapheme clusters (Unicode annex 29)."""
    return list(text) if text.isascii() and "\r" not in text else regex.findall(r"\X", text)


def draw_hits(rng: np.random.Generator, num_words: int, rate: float) -> list[int]:
    """Return the indices of the words that are hit, each independently with ``rate``."""
    return np.flatnonzero(rng.random(num_words) < rate).tolist()


def _split_by_grapheme(text: str) -> tuple[list[str], list[str]]:
    words, gaps = [], [""]
    for is_space, run in groupby(graphemes(text), key=str.isspace):
        if is_space:
            gaps[-1] = "".join(run)
        else:
            words.append("".join(run))
            gaps.append("")
    return words, gaps
