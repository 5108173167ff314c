"""The contracts of noise operations, and the table of all of them.

An operation says what becomes of one unit; which units are hit, and with which numbers, is
drawn by `hits` from the example's key. So an operation is a small pure function without a
state, and a new one is a new file in this package::

    @NOISE.register("char_delete")
    @CharacterOperation
    def char_delete(char, after, draw):
        return "", after

``draw`` is uniform in [0, 1). ``None`` says that the operation cannot change this unit; the hit
then moves on to the next one, so that a rate is held although few words can take the
operation. What an operation returns has no bracket in it (see `words.is_protected`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lope_dist.core.registry import Registry


@dataclass(frozen=True)
class CharacterOperation:
    """``(char, after, draw) -> (char, after) | None`` on a grapheme and the one after it.

    ``after`` is ``""`` at the end of a word. A word never becomes empty: an edit that would
    empty it is not made.
    """

    apply: Callable[[str, str, float], tuple[str, str] | None]
    units = ("word", "character", "example")


@dataclass(frozen=True)
class WordOperation:
    """``(words, index, draw) -> word | None`` with all words of the text to look at.

    ``""`` drops the word and the white space before it.
    """

    apply: Callable[[Sequence[str], int, float], str | None]
    units = ("word", "example")


@dataclass(frozen=True)
class PairOperation:
    """``(first, second) -> (first, second) | None`` on two neighbouring words; both are hit."""

    apply: Callable[[str, str], tuple[str, str] | None]
    units = ("word", "example")


@dataclass(frozen=True)
class ResponseOperation:
    """``(response, other, key) -> response | None`` on an example's last answer as a whole.

    ``other()`` is the answer of another example or ``None``; ``key`` is 64 random bits.
    """

    apply: Callable[[str, Callable[[], str | None], int], str | None]
    units = ("response",)


Operation = CharacterOperation | WordOperation | PairOperation | ResponseOperation

NOISE: Registry[Operation] = Registry("noise operation", package="lope_dist.noise")
