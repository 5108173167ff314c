"""Wrong language: an answer in the letters of another script."""

from __future__ import annotations

from collections.abc import Callable

from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.draws import uniforms
from lope_dist.noise.spaceless import split_words
from lope_dist.noise.syllables import made_up, script_of


def _joined(onsets: str, vowels: str) -> list[str]:
    return [onset + vowel for onset in onsets for vowel in vowels]


_SCRIPTS = {
    "CYRILLIC": (_joined("бвгдзклмнпрстчш", "аеиоуы"), " "),
    "GREEK": (_joined("βγδζκλμνπρσταφχ", "αεηιου"), " "),
    "HIRAGANA": (
        list("あいうえおかきくけこさしすせそたちつてとなにぬねのまみむめもらりるれろ"),
        "",
    ),
    "HANGUL": (list("가나다라마바사아자하고노도로모보소오조호구누두루무부수우주후"), " "),
    "LATIN": (_joined("bdfgklmnprstvz", "aeiou"), " "),
}
"""First word of the letters' Unicode names -> syllables, and what stands between words."""


@NOISE.register("wrong_language")
@ResponseOperation
def wrong_language(response: str, other: Callable[[], str | None], key: int) -> str:
    """Return as many made-up words (at most 200) in a script that the answer is not in.

    They are words of no language: what is wrong about them is the script.
    """
    script = script_of(response[:200]) or "LATIN"
    others = [name for name in _SCRIPTS if name != script]
    draw, second = uniforms(key, 2)
    syllables, gap = _SCRIPTS[others[int(draw * len(others))]]
    return made_up(len(split_words(response)), syllables, gap, int(second * 2**53))
