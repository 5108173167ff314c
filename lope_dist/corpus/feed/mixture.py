"""Which examples an epoch visits, and in which order, where sources have weights.

An epoch has ``round(weight * size)`` visits to each source: every example as often as that goes
into whole rounds, and for the rest a window of the source in an order of its own, which moves on
from epoch to epoch::

    weight 0.5     epoch 0: ####----    epoch 1: ----####    epoch 2: ####----
    weight 1.25    all of them and      ##------             --##----

so that what one epoch leaves out the next ones visit. All of it is a pure function of (seed,
epoch, place in the epoch) and keeps no list.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from lope_dist.core.errors import LopeError
from lope_dist.core.seeds import derive_key
from lope_dist.noise.draws import GOLDEN, scramble

_ROUNDS = 6


class Mixture:
    """The order of the examples of one or several sources.

    Raises:
        LopeError: a weight so small that an epoch would visit no example of its source.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, *, shuffle: bool
    ) -> None:
        assert len(sizes) == len(weights) > 0
        self._sizes, self._seed, self._shuffle = list(sizes), seed, shuffle
        self._visits = [int(w * n + 0.5) for n, w in zip(sizes, weights, strict=True)]
        for number, visits in enumerate(self._visits):
            if visits == 0:
                raise LopeError(
                    f"data.sources.{number}.weight = {weights[number]:g} of {sizes[number]} "
                    "examples is less than one visit in an epoch; raise it or remove the source."
                )
        self.starts = [0, *accumulate(sizes)][:-1]
        """The first example of each source."""
        self._ends = np.cumsum(self._visits)
        self.epoch_size = int(self._ends[-1])
        """Visits in an epoch."""

    def example_ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the examples at positions of an epoch.

        Shapes: int64 of any shape, in and out.
        """
        places = np.asarray(positions, np.int64)
        if self._shuffle:
            places = permuted(places, self.epoch_size, derive_key(self._seed, "order", epoch))
        sources = np.searchsorted(self._ends, places, side="right")
        ids = np.empty_like(places)
        for source in np.unique(sources):
            chosen = sources == source
            first = self._ends[source] - self._visits[source]
            ids[chosen] = self._visit(int(source), epoch, places[chosen] - first)
        return ids

    def _visit(self, source: int, epoch: int, visits: np.ndarray) -> np.ndarray:
        """Return the examples of the visits to one source, of which an epoch has a fixed number."""
        size = self._sizes[source]
        rounds, window_size = divmod(self._visits[source], size)
        local = visits % size
        in_window = visits >= rounds * size
        window = (epoch * window_size + local[in_window]) % size
        if self._shuffle:
            window = permuted(window, size, derive_key(self._seed, "window", source))
        local[in_window] = window
        return self.starts[source] + local


def permuted(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return where ``key``'s permutation of ``[0, size)`` sends each position.

    It keeps no list: a Feistel network permutes ``[0, 4**h)``, and what lands outside ``[0, size)``
    is sent through it again until it lands inside (cycle walking). Any position can be asked for at
    any time, so a resume is an index.

    Shapes: int64 of any shape, in and out.
    """
    assert size > 0
    values = np.asarray(positions, np.int64).astype(np.uint64)
    assert values.size == 0 or int(values.max()) < size
    # At least 3 bits a half: on smaller domains a Feistel network reaches few permutations.
    half = max(3, -(-(size - 1).bit_length() // 2))
    round_keys = scramble((np.uint64(key) ^ np.arange(1, _ROUNDS + 1, dtype=np.uint64)) + GOLDEN)
    values = _feistel(values, half, round_keys)
    while (outside := values >= np.uint64(size)).any():
        values[outside] = _feistel(values[outside], half, round_keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: int, round_keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (scramble((right ^ round_key) + GOLDEN) & mask)
    return (left << shift) | right
