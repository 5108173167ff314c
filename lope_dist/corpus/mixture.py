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
from lope_dist.corpus.order import permuted


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
        """Return the examples at places of an epoch.

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
        rounds, rest = divmod(self._visits[source], size)
        local = visits % size
        in_window = visits >= rounds * size
        window = (epoch * rest + local[in_window]) % size
        if self._shuffle:
            window = permuted(window, size, derive_key(self._seed, "window", source))
        local[in_window] = window
        return self.starts[source] + local
