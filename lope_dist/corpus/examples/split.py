"""A source of examples in two: some rows to validate on, and the rest to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any

import numpy as np

from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.lines import without_weight
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.examples.store import Lines

_PURPOSE = "validation"


class TooFewRows(LopeError):
    """A share that holds out no row, or leaves none to train on."""


def split_source(
    source: ExampleSource, share: float, seed: int
) -> tuple[ExampleSource, ExampleSource]:
    """Return the examples to train on and those that are held out.

    Each row is drawn by itself, by seed and text: equal rows are on one side, so are all examples
    of one conversation, and no row changes sides because others are added or removed. Both parts
    are in order, and number their examples from 0 as a file of these rows alone would. What is
    held out is one source, however many it was taken from: some may give no row.

    Args:
        source: All examples.
        share: Of the rows, to be held out.
        seed: Of the run.

    Raises:
        TooFewRows: none is held out, or none is left to train on.
    """
    ends = [*accumulate(source.sizes)]
    sizes = [0] * len(ends)
    digests = [hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)]
    held_out: list[int] = []
    number = 0
    for index, (is_held, text) in enumerate(_draws(source.store, share, seed)):
        while index >= ends[number]:
            number += 1
        digests[is_held].update(text + b"\n")
        if is_held:
            held_out.append(index)
        else:
            sizes[number] += 1
    if not held_out:
        raise TooFewRows(
            f"data.validation.share = {share:g} of {len(source)} examples holds out no example; "
            "raise it, or give data.validation.path."
        )
    if not all(sizes):
        raise TooFewRows(
            f"data.validation.share = {share:g} leaves no example of {source.name} (source "
            f"{sizes.index(0)}) to train on; lower it, or give data.validation.path."
        )
    training, chosen = (
        _Part(
            source.store,
            np.array(held_out, np.int64),
            is_held,
            {"sizes": of_part, "fingerprint": digests[is_held].hexdigest()},
        )
        for is_held, of_part in ((False, sizes), (True, [len(held_out)]))
    )
    return (
        ExampleSource(training, source.name, source.weights, source.notes),
        ExampleSource(chosen, source.name, (1.0,)),
    )


def num_in_both(source: ExampleSource, other: ExampleSource) -> int:
    """Return how many examples of ``other`` are in ``source`` too. Reads all of both."""
    of_other = [_digest(line) for line in other.store.lines(0, len(other))]
    digests = set(of_other)
    every = (_digest(line) for line in source.store.lines(0, len(source)))
    shared = {digest for digest in every if digest in digests}
    return sum(digest in shared for digest in of_other)


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(without_weight(line.split(b" ", 2)[2]), digest_size=16).digest()


def _draws(lines: Lines, share: float, seed: int) -> Iterator[tuple[bool, bytes]]:
    """Yield for each example whether its row is held out, and its text."""
    key, bound = f"{seed}:{_PURPOSE}".encode()[:64], int(share * 2**64)
    row: tuple[bytes, bytes] | None = None
    is_held = False
    for line in lines.lines(0, len(lines)):
        file, number, text = line.rstrip(b"\n").split(b" ", 2)
        if (file, number) != row:
            row = file, number
            draw = hashlib.blake2b(without_weight(text), digest_size=8, key=key).digest()
            is_held = int.from_bytes(draw, "little") < bound
        yield is_held, text


class _Part:
    """The lines of a store that are held out, or all the others, in order.

    It can be pickled.
    """

    def __init__(
        self, store: Lines, held_out: np.ndarray, is_held: bool, index: dict[str, Any]
    ) -> None:
        self._store, self._held, self._is_held = store, held_out, is_held
        self.index = store.index | index
        # How many of the others stand before each that is held out.
        self._before = held_out - np.arange(len(held_out))

    def __len__(self) -> int:
        return len(self._held) if self._is_held else len(self._store) - len(self._held)

    def line(self, index: int) -> bytes:
        """Return one example's line."""
        return self._store.line(self._number(index))

    def lines(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the lines of a range in order."""
        if self._is_held:
            yield from (self.line(index) for index in range(start, stop))
            return
        if start >= stop:
            return
        first = self._number(start)
        held_out = set(self._held.tolist())
        every = enumerate(self._store.lines(first, len(self._store)), start=first)
        yield from islice((line for index, line in every if index not in held_out), stop - start)

    def _number(self, index: int) -> int:
        """Return an example's number among all."""
        if self._is_held:
            return int(self._held[index])
        return index + int(np.searchsorted(self._before, index, side="right"))
