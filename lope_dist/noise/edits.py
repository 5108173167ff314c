"""From hit words to edits of a text: Python, at the hit words alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lope_dist.noise.base import (
    NOISE,
    CharacterOperation,
    Operation,
    PairOperation,
    WordOperation,
)
from lope_dist.noise.hits import Hits
from lope_dist.noise.words import Words, WordTable, graphemes

Edit = tuple[int, int, str, int, str, int]
"""First place of ``joined``, one past the last, what stands there now, the text's number, the
operation, units hit (0 for the second half of one that is counted)."""

MAX_WALK = 256
"""How many words, or characters of a word, a hit moves on to find one that can be changed."""

_Apply = Callable[[str, str, float], tuple[str, str] | None]


def edit_words(table: WordTable, hits: Hits) -> list[Edit]:
    """Apply the operations to the hit words; in the order of the texts.

    A hit on a word that its operation cannot change moves on to the next one of the example
    that is not hit, from the last to the first.
    """
    return _WordEdits(table, hits).edits


def splice(table: WordTable, edits: Sequence[Edit]) -> Iterator[tuple[int, str]]:
    """Yield the number and the new text of each text that has edits."""
    joined, pieces, current, done = table.joined, [], -1, 0
    for start, end, new, text, _, _ in edits:
        if text != current:
            if current >= 0:
                pieces.append(joined[done : int(table.text_starts[current + 1]) - 1])
                yield current, "".join(pieces)
            current, done, pieces = text, int(table.text_starts[text]), []
        pieces.append(joined[done:start])
        pieces.append(new)
        done = end
    if current >= 0:
        pieces.append(joined[done : int(table.text_starts[current + 1]) - 1])
        yield current, "".join(pieces)


def _change_character(word: str, apply: _Apply, where: float, draw: float) -> str | None:
    """Apply a character operation at ``where`` (0 to 1) of a word, or at the next it can change."""
    parts = word if word.isascii() else graphemes(word)
    count = len(parts)
    start = int(where * count)
    for at in range(start, start + min(count, MAX_WALK)):
        if at >= count:
            at -= count
        old = parts[at], parts[at + 1] if at + 1 < count else ""
        new = apply(*old, draw)
        if new is not None and new != old:
            head, tail = parts[:at], parts[at + 2 :]
            if not isinstance(parts, str):
                head, tail = "".join(head), "".join(tail)
            changed = f"{head}{new[0]}{new[1]}{tail}"
            if changed:
                return changed
    return None


class _WordEdits:
    """The edits of one batch, as they are found.

    The loop is most of what noise costs, so the common case (a character of an ASCII word that
    takes the operation) is written out in it; everything else has its function.
    """

    def __init__(self, table: WordTable, hits: Hits) -> None:
        self._table = table
        self.edits: list[Edit] = []
        self._taken = set(hits.words.tolist())
        self._has_moved = False
        self._in_vain: set[tuple[int, str]] = set()
        """(first word of the example, operation) whose search for another word found none."""
        operations = [NOISE[name] for name in hits.names]
        is_pair = np.array([isinstance(operation, PairOperation) for operation in operations])
        self._taken.update((hits.words[is_pair[hits.operations]] + 1).tolist())
        starts, ends = table.starts[hits.words], table.ends[hits.words]
        seconds = np.minimum(hits.words + 1, len(table.starts) - 1)
        joined, protected, edits, names = table.joined, table.protected, self.edits, hits.names
        of_ascii = [isinstance(op, CharacterOperation) and joined.isascii() for op in operations]
        applies = [operation.apply for operation in operations]
        for word, text, number, where, draw, start, end, at, start_2, end_2 in zip(
            hits.words.tolist(),
            hits.texts.tolist(),
            hits.operations.tolist(),
            hits.where.tolist(),
            hits.draws.tolist(),
            starts.tolist(),
            ends.tolist(),
            (starts + (hits.where * (ends - starts)).astype(np.int64)).tolist(),
            table.starts[seconds].tolist(),
            table.ends[seconds].tolist(),
            strict=True,
        ):
            if of_ascii[number] and word not in protected:
                after = at + 1
                old = (joined[at], joined[after] if after < end else "")
                new = applies[number](*old, draw)
                if new is not None and new != old:
                    changed = new[0] + new[1]
                    if changed or end - start > 2:  # something is left of the word
                        edits.append((at, min(at + 2, end), changed, text, names[number], 1))
                        continue
            operation = operations[number]
            if not isinstance(operation, PairOperation):
                self._edit_word(operation, word, text, where, draw, names[number])
            elif word not in protected and word + 1 not in protected:
                pair = operation.apply(joined[start:end], joined[start_2:end_2])
                if pair is not None:
                    edits.append((start, end, pair[0], text, names[number], 2))
                    edits.append((start_2, end_2, pair[1], text, names[number], 0))
        if self._has_moved:
            edits.sort()

    def _edit_word(
        self, operation: Operation, word: int, text: int, where: float, draw: float, name: str
    ) -> None:
        """Make the change at the word, or at the next of the example that can take it, if any."""
        table = self._table
        first, end = table.pools[text].tolist()
        reach = 1 if (first, name) in self._in_vain else MAX_WALK
        for step in range(min(end - first, reach)):
            at = word + step if word + step < end else word + step - (end - first)
            if (step and at in self._taken) or at in table.protected:
                continue
            if step:
                text = int(table.first_words.searchsorted(at, "right")) - 1
            if isinstance(operation, CharacterOperation):
                new = _change_character(table.word(at), operation.apply, where, draw)
            else:
                new = self._change_word(operation, at, text, draw)
            if new is None:
                continue
            start = int(table.starts[at] if new else table.ends[at - 1])
            self.edits.append((start, int(table.ends[at]), new, text, name, 1))
            if step:
                self._taken.add(at)
                self._has_moved = True
            return
        self._in_vain.add((first, name))

    def _change_word(self, operation: Operation, word: int, text: int, draw: float) -> str | None:
        assert isinstance(operation, WordOperation)
        index = word - int(self._table.first_words[text])
        words = Words(self._table, text)
        new = operation.apply(words, index, draw)
        return None if new == words[index] else new
