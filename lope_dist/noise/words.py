"""Where the words of many texts are, and their graphemes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from lope_dist.noise.spaceless import inner_borders, spaceless_runs

_PROTECTED = re.compile(r"[<>\[\]]")
# White space that is part of a grapheme (a space that carries an accent) belongs to a word.
_BOUND_SPACE = regex.compile(r"\p{GCB=Prepend}\s|\s[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]")
_THOUGHTS = re.compile(r".*(?:</think>|\[/THINK\])\s*", re.DOTALL)
_CLUSTER = regex.compile(r"\X")
_LAST_SPACE = 0x3000
_SPACE, _BRACKET = 1, 2
_KINDS = np.array(
    [
        _SPACE * chr(code).isspace() + _BRACKET * (chr(code) in "<>[]")
        for code in range(_LAST_SPACE + 2)
    ],
    np.uint8,
)
_ASCII_KINDS = _KINDS[:256].tobytes()


def is_protected(text: str) -> bool:
    """Tell whether noise must leave a word alone: it has one of ``< > [ ]`` in it.

    Each special token of the tokenizers in use is a word with brackets (``<|im_end|>``,
    ``</s>``, ``[INST]``). No operation on words changes, moves, drops or makes such a word, so
    noise can neither break a special token that a text quotes nor write one.
    """
    return _PROTECTED.search(text) is not None


def end_of_thoughts(text: str) -> int:
    """Return where an answer begins behind the thoughts in its text; 0 if it has none."""
    thoughts = _THOUGHTS.match(text)
    return thoughts.end() if thoughts else 0


def graphemes(text: str) -> list[str]:
    """Return the text's extended grapheme clusters (Unicode annex 29)."""
    return list(text) if text.isascii() and "\r" not in text else _CLUSTER.findall(text)


def edge_marks(word: str) -> tuple[str, str, str]:
    """Return a word as the marks before it, its core and the marks behind it."""
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not (word[end - 1].isalnum() or unicodedata.combining(word[end - 1])):
        end -= 1
    return word[:start], word[start:end], word[end:]


@dataclass(frozen=True)
class WordTable:
    """The words of a batch of texts, as places in their concatenation.

    Shapes: T texts, W words over all of them, in order.
    """

    joined: str
    """All texts, with one line break before, between and after them."""
    text_starts: NDArray[np.int64]
    """(T + 1,) where each text starts in ``joined``; the last entry is one past the end."""
    is_space: NDArray[np.bool_]
    """For each code point of ``joined``."""
    starts: NDArray[np.int64]
    """(W,) first code point of each word."""
    ends: NDArray[np.int64]
    """(W,) one past its last."""
    first_words: NDArray[np.int64]
    """(T + 1,) number of each text's first word; the last entry is W."""
    pools: NDArray[np.int64]
    """(T, 2) first word and end of the neighbouring texts that have the text's owner."""
    protected: frozenset[int]
    """Numbers of the words that noise leaves alone; see `is_protected`."""

    def word(self, index: int) -> str:
        """Return one word."""
        return self.joined[self.starts[index] : self.ends[index]]


class Words(Sequence[str]):
    """The words of one text of a table, cut out when they are asked for."""

    def __init__(self, table: WordTable, text: int) -> None:
        self._table = table
        self._first, self._end = map(int, table.first_words[text : text + 2])

    def __len__(self) -> int:
        return self._end - self._first

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices needed
        if not 0 <= index < self._end - self._first:
            raise IndexError(index)
        return self._table.word(self._first + index)

    def __iter__(self) -> Iterator[str]:
        return (self._table.word(word) for word in range(self._first, self._end))


def word_table(texts: Sequence[str], owners: NDArray[np.int64] | None = None) -> WordTable:
    """Find the words of all texts; no border of a word cuts a grapheme.

    Words stand between white space; where a script writes none, see `spaceless`.

    ``owners``: (T,) the example that each text is of; without, each is by itself.
    """
    if owners is None:
        owners = np.arange(len(texts))
    joined = "\n".join(["", *texts, ""])
    if joined.isascii():
        kinds = np.frombuffer(joined.encode("ascii").translate(_ASCII_KINDS), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds = _KINDS[np.minimum(codes, _LAST_SPACE + 1)]
    is_space = kinds == _SPACE
    if not joined.isascii():
        _unmark_bound_spaces(joined, is_space)
    borders = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
    if not joined.isascii():
        borders = _with_inner_borders(joined, borders)
    starts, ends = borders[0::2], borders[1::2]
    text_starts = np.cumsum(np.array([0, *map(len, texts)]) + 1)
    first_words = np.searchsorted(starts, text_starts)
    pool_starts = np.append(np.flatnonzero(np.diff(owners, prepend=-1)), len(texts))
    pool = np.searchsorted(pool_starts, np.arange(len(texts)), "right") - 1
    pools = np.stack([first_words[pool_starts[pool]], first_words[pool_starts[pool + 1]]], axis=1)
    brackets = np.flatnonzero(kinds == _BRACKET)
    return WordTable(
        joined,
        text_starts,
        is_space,
        starts,
        ends,
        first_words,
        pools,
        protected=frozenset((np.searchsorted(starts, brackets, "right") - 1).tolist()),
    )


def _with_inner_borders(joined: str, borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return starts and ends of words in turn, with those between which no white space is."""
    runs = np.fromiter(spaceless_runs(joined), np.int64)
    inner = [
        int(borders[i - 1]) + border
        for i in np.unique(np.searchsorted(borders, runs, "right")).tolist()
        for border in inner_borders(joined[borders[i - 1] : borders[i]])
    ]
    return np.sort(np.concatenate([borders, np.repeat(np.array(inner, np.int64), 2)]))


def _unmark_bound_spaces(joined: str, is_space: NDArray[np.bool_]) -> None:
    """Count white space inside a grapheme that shows more than white space as part of a word."""
    done = 0
    for match in _BOUND_SPACE.finditer(joined, overlapped=True):
        line_start = joined.rfind("\n", 0, match.start() + 1) + 1  # a break starts a grapheme
        at = max(done, line_start)
        while at < match.end():
            cluster = _CLUSTER.match(joined, at)
            assert cluster is not None
            if not cluster[0].isspace():
                is_space[at : cluster.end()] = False
            at = cluster.end()
        done = at
