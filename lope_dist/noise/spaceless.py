"""Words of scripts that write no spaces between them: Chinese, Japanese, Thai, Lao, Khmer, Burmese.

ICU finds them (Unicode annex 29, with its dictionaries). Marks stay with the word that they stand
behind, opening ones with the word that follows, as white space would have it in other scripts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import regex

from lope_dist.core.errors import LopeError

_WITHOUT_DICTIONARY = (
    "\u1980-\u19df"  # New Tai Lue
    "\u1a20-\u1aaf"  # Lanna
    "\u1b00-\u1b7f"  # Balinese
    "\ua980-\ua9df"  # Javanese
    "\uaa80-\uaadf"  # Tai Viet
)
_WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan, whose syllables have a mark between them
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c"  # Han
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # Japanese
    "\u3100-\u312f\u31a0-\u31bf"  # Bopomofo
)
_SPACELESS = re.compile(f"[{_WITHOUT_SPACES}{_WITHOUT_DICTIONARY}]+")
_UNKNOWN = re.compile(f"[{_WITHOUT_DICTIONARY}]")
_IN_BRACKETS = re.compile(r"(<[^<>]*>|\[[^\[\]]*\])")
_JOINED = regex.compile(
    r"(?=[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}])|(?<=[\p{GCB=Prepend}\u200d])"
    r"|(?<=[\p{InSC=Virama}\p{InSC=Invisible_Stacker}])"
)
"""Where a grapheme may go on."""
_CLUSTER = regex.compile(r"\X")


def spaceless_runs(text: str) -> Iterator[int]:
    """Yield where each run of characters begins whose script writes no spaces."""
    return (match.start() for match in _SPACELESS.finditer(text))


def is_spaceless(text: str) -> bool:
    """Tell whether a text has a character of a script that writes no spaces."""
    return not text.isascii() and _SPACELESS.search(text) is not None


def inner_borders(token: str) -> list[int]:
    """Return the places inside a text without white space at which another word begins.

    What stands in brackets is one word, so that no special token is cut (see
    `words.is_protected`). No place is inside a grapheme.
    """
    borders: list[int] = []
    at, has_word, is_behind_opener = 0, False, False
    for part, is_word in _parts(token):
        opens = not is_word and all(unicodedata.category(char) in ("Ps", "Pi") for char in part)
        if (is_word or opens) and has_word and not is_behind_opener:
            borders.append(at)
        has_word |= is_word
        is_behind_opener = opens
        at += len(part)
    if any(_JOINED.match(token, border) for border in borders):
        starts = {match.start() for match in _CLUSTER.finditer(token)}
        borders = [border for border in borders if border in starts]
    return borders


def split_words(text: str) -> list[str]:
    """Return the words of a text in any script."""
    words = text.split()
    if not is_spaceless(text):
        return words
    return [part for word in words for part in _cut(word)]


def _cut(token: str) -> list[str]:
    borders = inner_borders(token) if is_spaceless(token) else []
    return [token[a:b] for a, b in zip([0, *borders], [*borders, len(token)], strict=True)]


def _parts(token: str) -> Iterator[tuple[str, bool]]:
    """Yield what ICU or brackets keep together, and whether it is a word and not marks."""
    breaker = _word_breaker()
    for number, piece in enumerate(_IN_BRACKETS.split(token)):
        if number % 2:
            yield piece, True
            continue
        for part in breaker(piece, "root") if piece else ():
            if _UNKNOWN.search(part):
                yield from ((cluster, True) for cluster in _CLUSTER.findall(part))
            else:
                yield part, part.isalnum() or any(map(str.isalnum, part))


def _word_breaker() -> Callable[[str, str], Iterable[str]]:
    """Return ICU's breaker of words.

    Raises:
        LopeError: the package is not installed.
    """
    try:
        from icu4py.breakers import WordBreaker  # 40 MB that most texts do without
    except ImportError:
        raise LopeError(
            "Noise on text that is written without spaces (Chinese, Japanese, Thai, Lao, Khmer, "
            "Burmese) needs the package icu4py, which is not installed: pip install icu4py."
        ) from None
    return WordBreaker
