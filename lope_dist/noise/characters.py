"""Noise whose rate counts characters: each grapheme outside white space is a unit."""

from __future__ import annotations

import numpy as np

from lope_dist.noise.base import NOISE, CharacterOperation
from lope_dist.noise.draws import Keys, as_uniform, threshold
from lope_dist.noise.edits import MAX_WALK, Edit
from lope_dist.noise.hits import draw_numbers, unit_keys
from lope_dist.noise.words import WordTable, graphemes, is_protected


def edit_characters(table: WordTable, keys: Keys, rates: dict[str, float]) -> list[Edit]:
    """Hit each character of each text with operation k with probability ``rates[k]``.

    A hit on a character that its operation cannot change moves on to the next one that is
    not hit, from the last of the example to the first.
    """
    names = tuple(rates)
    lengths = np.diff(table.text_starts)  # with the line break behind each
    hashes = unit_keys(keys, lengths)
    is_hit = (hashes < threshold(sum(rates.values()))) & ~table.is_space[1:]
    positions = np.flatnonzero(is_hit)
    ends = np.cumsum([rates[name] for name in names])
    chosen = np.searchsorted(ends, as_uniform(hashes[positions]), "right")
    draws = draw_numbers(hashes[positions])[1].tolist()
    positions += 1  # of ``joined``
    words = (np.searchsorted(table.starts, positions, "right") - 1).tolist()
    texts = (np.searchsorted(table.text_starts, positions, "right") - 1).tolist()
    batch = _CharacterEdits(table)
    hit_positions = positions.tolist()
    for word, position in zip(words, hit_positions, strict=True):
        batch.reserve(word, position)
    for word, position, text, op, draw in zip(
        words, hit_positions, texts, np.minimum(chosen, len(names) - 1).tolist(), draws, strict=True
    ):
        operation = NOISE[names[op]]
        assert isinstance(operation, CharacterOperation)
        batch.edit(operation, word, position, text, draw, names[op])
    return batch.edits()


class _Word:
    """A word's graphemes as they are changed, each at most once."""

    def __init__(self, table: WordTable, index: int) -> None:
        self.start = int(table.starts[index])
        text = table.word(index)
        self.parts = graphemes(text)
        self.num_left = len(self.parts)
        self.is_protected = is_protected(text)
        self.is_hit = [False] * len(self.parts)
        self.is_changed = [False] * len(self.parts)
        self.number: dict[int, int] | None = None
        if len(self.parts) < len(text):
            offsets = np.cumsum([0, *map(len, self.parts[:-1])]).tolist()
            self.number = {offset: i for i, offset in enumerate(offsets)}

    def number_of(self, position: int) -> int | None:
        """Return the grapheme that starts at a place of ``joined``, if one does."""
        offset = position - self.start
        return offset if self.number is None else self.number.get(offset)

    def change(self, at: int, operation: CharacterOperation, draw: float) -> bool:
        """Apply an operation at one grapheme; return whether it could be."""
        parts = self.parts
        has_after = at + 1 < len(parts) and not self.is_changed[at + 1]
        old = (parts[at], parts[at + 1] if has_after else "")
        new = operation.apply(*old, draw)
        if new is None or new == old:
            return False
        num_left = self.num_left - sum(map(bool, old)) + sum(map(bool, new))
        if num_left == 0:
            return False
        self.num_left = num_left
        parts[at], self.is_changed[at] = new[0], True
        if has_after:
            parts[at + 1] = new[1]
            self.is_changed[at + 1] = new[1] != old[1]
        else:
            parts[at] += new[1]
        return True


class _CharacterEdits:
    def __init__(self, table: WordTable) -> None:
        self._table = table
        self._words: dict[int, _Word] = {}
        self._edited: dict[int, list[tuple[int, str]]] = {}

    def _word(self, index: int) -> _Word:
        if index not in self._words:
            self._words[index] = _Word(self._table, index)
        return self._words[index]

    def reserve(self, word: int, position: int) -> None:
        """Keep a hit character from being changed by a hit that moves on."""
        state = self._word(word)
        at = state.number_of(position)
        if at is not None:
            state.is_hit[at] = True

    def edit(
        self,
        operation: CharacterOperation,
        word: int,
        position: int,
        text: int,
        draw: float,
        name: str,
    ) -> None:
        """Make the change at a place of ``joined``, or at the next character that can take it."""
        at = self._word(word).number_of(position)
        if at is None:  # inside a grapheme, which is one unit and starts elsewhere
            return
        first, end = self._table.pools[text].tolist()
        is_first = True
        for _ in range(MAX_WALK):
            state = self._word(word)
            if at >= len(state.parts) or state.is_protected:
                word, at = (word + 1 if word + 1 < end else first), 0
                text = int(self._table.first_words.searchsorted(word, "right")) - 1
                is_first = False
                continue
            is_free = not state.is_changed[at] and (is_first or not state.is_hit[at])
            if is_free and state.change(at, operation, draw):
                self._edited.setdefault(word, []).append((text, name))
                return
            is_first = False
            at += 1

    def edits(self) -> list[Edit]:
        """Return one edit for each changed word, and a count for each further hit in it."""
        table, result = self._table, []
        for word in sorted(self._edited):
            start, end = int(table.starts[word]), int(table.ends[word])
            new = "".join(self._words[word].parts)
            for text, name in self._edited[word]:
                result.append((start, end, new, text, name, 1))
                start, new = end, ""
        return result
