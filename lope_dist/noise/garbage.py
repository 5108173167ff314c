"""Garbage: an answer of made-up words."""

from __future__ import annotations

from collections.abc import Callable

from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.syllables import made_up

_SYLLABLES = [
    onset + vowel + coda
    for onset in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh", "tr")
    for vowel in "aeiou"
    for coda in ("", "", "n", "r", "s", "k")
]


@NOISE.register("garbage")
@ResponseOperation
def garbage(response: str, other: Callable[[], str | None], key: int) -> str:
    """Return as many pronounceable words that mean nothing (at most 200)."""
    return made_up(len(response.split()), _SYLLABLES, " ", key)
