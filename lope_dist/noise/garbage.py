"""Garbage: an answer of made-up words."""

from __future__ import annotations

import re
from collections.abc import Callable

from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.spaceless import split_words
from lope_dist.noise.syllables import made_up

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh", "tr")
_CODAS = ("", "", "n", "r", "s", "k")
_SYLLABLES = [onset + vowel + coda for onset in _ONSETS for vowel in "aeiou" for coda in _CODAS]
_TEXT = re.compile(rf"(?:(?:(?:{'|'.join(_ONSETS)})[aeiou][nrsk]?){{1,3}} ?)+")
_OPEN_TEXT = re.compile(r"(?:(?:[^\W\daeiou][aeiou])+ ?)+")


@NOISE.register("garbage")
@ResponseOperation
def garbage(response: str, other: Callable[[], str | None], key: int) -> str:
    """Return as many pronounceable words that mean nothing (at most 200)."""
    return made_up(len(split_words(response)), _SYLLABLES, " ", key)


def is_garbage(text: str) -> bool:
    """Tell whether a text looks like one of these, which `wrong_language`'s Latin hardly does."""
    return bool(_TEXT.fullmatch(text)) and not _OPEN_TEXT.fullmatch(text)
