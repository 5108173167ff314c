"""Which characters of a text lie in words that noise changed.

Marks are kept beside a text while noise goes through it, from the edits themselves: exact where
a comparison of the two texts would have to guess (swapped words, an answer of another example).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from lope_dist.noise.spaceless import inner_borders, is_spaceless
from lope_dist.noise.words import is_protected

Marks = bytearray
"""One byte for each code point of a text: 1 in a word that noise changed, else 0. What stands
between two such words may be either."""
TextMarks = dict[int, Marks]
"""Marks of an example's texts by their place in it (see `corpus.views.field_at`)."""

Change = tuple[int, int, str]
"""First place in the old text, one past the last, what stands there now."""

_WORD = re.compile(r"\S+")


def marks_after(text: str, marks: Marks, changes: Iterable[Change], new: str) -> Marks:
    """Return the marks of ``new``, which the changes, in order, make of a text with marks.

    A changed character marks its whole word. Where only something is missing, it is the word
    that lost a character; for a dropped word, the one that now follows in its place, or the one
    before where none follows or noise leaves that alone.
    """
    moved, gaps, done = bytearray(), [], 0
    for start, end, inserted in changes:
        moved += marks[done:start]
        if not inserted and end > start:
            gaps.append((len(moved), any(map(str.isspace, text[start:end]))))
        moved += b"\1" * len(inserted)
        done = end
    moved += marks[done:]
    assert len(moved) == len(new), (len(moved), len(new))
    words = list(_words(new)) if gaps or 1 in moved else []
    for at, is_word_gone in gaps:
        position = _beside_word(new, words, at) if is_word_gone else _beside(new, at)
        if position is not None:
            moved[position] = 1
    for start, end in words:
        if moved.find(1, start, end) >= 0:
            moved[start:end] = b"\1" * (end - start)
    return moved


def marks_of_answer(old: str, marks: Marks, new: str) -> Marks:
    """Return the marks of an answer that stands in the place of another; a cut one keeps its."""
    if old.startswith(new):
        return marks_after(old, marks, [(len(new), len(old), "")], new)
    return bytearray(b"\1" * len(new))


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Yield first place and end of each word."""
    for match in _WORD.finditer(text):
        start = match.start()
        for border in inner_borders(match[0]) if is_spaceless(match[0]) else ():
            yield start, match.start() + border
            start = match.start() + border
        yield start, match.end()


def _beside(text: str, at: int) -> int | None:
    """Return the place that is marked for characters that are missing before ``at``."""
    is_inside = at < len(text) and not text[at].isspace()
    return at if is_inside else at - 1 if at > 0 else None


def _beside_word(text: str, words: Sequence[tuple[int, int]], at: int) -> int | None:
    """Return the place that is marked for a word that is missing before ``at``."""
    number = bisect_right(words, at, key=lambda word: word[1])
    beside = [*words[number : number + 1], *words[max(0, number - 1) : number]]
    return next((start for start, end in beside if not is_protected(text[start:end])), None)
