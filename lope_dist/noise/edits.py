"""From hit words to edits of a text: Python, at the hit words alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lope_dist.noise.base import NOISE, CharacterOperation, PairOperation, WordOperation
from lope_dist.noise.hits import Hits
from lope_dist.noise.words import Words, WordTable, graphemes, is_protected

Edit = tuple[int, int, str, int, str, int]
"""First place of ``joined``, one past the last, what stands there now, the text's number, the
operation, units hit (0 for the second half of one that is counted)."""

MAX_WALK = 64
"""How many words, or characters of a word, a hit moves on to find one that can be changed."""

_ChangeWord = Callable[[str, int, float, float], str | None]


def edit_words(table: WordTable, hits: Hits) -> list[Edit]:
    """Apply the operations to the hit words; in the order of the texts.

    A hit on a word that its operation cannot change moves on to the next one of the text that
    is not hit, from the last to the first.
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


def change_character(
    word: str, apply: Callable[[str, str, float], tuple[str, str] | None], where: float, draw: float
) -> str | None:
    """Apply a character operation at ``where`` (0 to 1) of a word, or at the next it can change."""
    parts = word if word.isascii() else graphemes(word)
    count = len(parts)
    start = int(where * count)
    for at in range(start, start + min(count, MAX_WALK)):
        if at >= count:
            at -= count
        after = parts[at + 1] if at + 1 < count else ""
        changed = apply(parts[at], after, draw)
        if changed is not None and changed != (parts[at], after):
            head, tail = parts[:at], parts[at + 2 :]
            if not isinstance(parts, str):
                head, tail = "".join(head), "".join(tail)
            new = f"{head}{changed[0]}{changed[1]}{tail}"
            if new:
                return new
    return None


class _WordEdits:
    """The edits of one batch, as they are found."""

    def __init__(self, table: WordTable, hits: Hits) -> None:
        self._table = table
        self.edits: list[Edit] = []
        operations = [NOISE[name] for name in hits.names]
        changes = [self._change(operation) for operation in operations]
        is_pair = [isinstance(operation, PairOperation) for operation in operations]
        words = hits.words.tolist()
        self._taken = set(words)
        self._taken.update(
            word + 1
            for word, op in zip(words, hits.operations.tolist(), strict=True)
            if is_pair[op]
        )
        self._moved = False
        joined, edits = table.joined, self.edits
        for word, start, end, text, op, where, draw in zip(
            words,
            table.starts[hits.words].tolist(),
            table.ends[hits.words].tolist(),
            hits.texts.tolist(),
            hits.operations.tolist(),
            hits.where.tolist(),
            hits.draws.tolist(),
            strict=True,
        ):
            name = hits.names[op]
            if is_pair[op]:
                self._edit_pair(operations[op], word, text, name)
                continue
            old = joined[start:end]
            new = None if is_protected(old) else changes[op](old, word, where, draw)
            if new:
                edits.append((start, end, new, text, name, 1))
            elif new == "":
                edits.append((int(table.ends[word - 1]), end, "", text, name, 1))
            else:
                self._move_on(changes[op], word, text, where, draw, name)
        if self._moved:
            edits.sort()

    def _change(self, operation: object) -> _ChangeWord:
        """Return the one form of an operation: (word, its number, where, draw) -> word."""
        if isinstance(operation, CharacterOperation):
            apply_character = operation.apply

            def change_char(word: str, index: int, where: float, draw: float) -> str | None:
                return change_character(word, apply_character, where, draw)

            return change_char
        if isinstance(operation, WordOperation):
            apply_word, table = operation.apply, self._table

            def change_word(word: str, index: int, where: float, draw: float) -> str | None:
                text = int(table.first_words.searchsorted(index, "right")) - 1
                new = apply_word(Words(table, text), index - int(table.first_words[text]), draw)
                return None if new == word else new

            return change_word
        return lambda *_: None  # pairs have a way of their own

    def _edit_pair(self, operation: object, word: int, text: int, name: str) -> None:
        assert isinstance(operation, PairOperation)
        table = self._table
        first, second = table.word(word), table.word(word + 1)
        if is_protected(first) or is_protected(second):
            return
        changed = operation.apply(first, second)
        if changed is not None:
            for at, new, units in ((word, changed[0], 2), (word + 1, changed[1], 0)):
                self.edits.append((int(table.starts[at]), int(table.ends[at]), new, text, name, units))

    def _move_on(
        self, change: _ChangeWord, word: int, text: int, where: float, draw: float, name: str
    ) -> None:
        """Make the change at the next word of the text that can take it, if there is one."""
        table = self._table
        first, end = map(int, table.first_words[text : text + 2])
        for step in range(1, min(end - first, MAX_WALK)):
            other = word + step if word + step < end else word + step - (end - first)
            if other in self._taken:
                continue
            old = table.word(other)
            new = None if is_protected(old) else change(old, other, where, draw)
            if new is None:
                continue
            start = int(table.starts[other] if new else table.ends[other - 1])
            self.edits.append((start, int(table.ends[other]), new, text, name, 1))
            self._taken.add(other)
            self._moved = True
            return
