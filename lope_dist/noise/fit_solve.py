"""From counts by class to a mix and its rates: simulate each operation, solve, resample.

Counts are ambiguous: a swapped letter may look like a near key, a homophone like a lost letter.
So each operation is run on clean text and counted the same way, which says what it looks like,
and the mix is the non-negative combination of the operations that looks like the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from lope_dist.config.noise import TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.mix import corrupt, example_keys

Row = Sequence[str]
"""Texts of one example."""
CountRow = Callable[[int, Row], tuple[Counter[str], int]]
"""(number of the row, its texts) -> classes, words."""

_PROBE_RATE = 0.05
_PROBE_ROWS = 2000
"""Rows that the operations are simulated on."""
_PROBE_HITS = 20
"""Words that a simulated operation must hit for its traces to be known."""
_RESAMPLES = 200
_CORRECTIONS = 6
"""Simulations of the found mix that correct it."""


@dataclass(frozen=True)
class Estimate:
    """A rate with its 95 % interval."""

    rate: float
    low: float
    high: float


class Fit(NamedTuple):
    """What the data show."""

    rates: dict[str, Estimate]
    """Operation -> share of the words that it hits; of those that are there."""
    not_judged: tuple[str, ...]
    """Operations that hardly a word can take."""


class Counts:
    """Counts by class, row by row."""

    def __init__(self, rows: Sequence[Row], count_row: CountRow, classes: list[str]) -> None:
        counted = [count_row(number, row) for number, row in enumerate(rows)]
        for counts, _ in counted:
            classes += [name for name in counts if name not in classes]
        self._rows = [counts for counts, _ in counted]
        self.words = np.array([words for _, words in counted], float)

    def matrix(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """Return the counts; shape (rows, classes)."""
        return np.array([[row[name] for name in classes] for row in self._rows], float)


def simulated(rows: Sequence[Row], rates: dict[str, float], seed: int) -> tuple[list[Row], int]:
    """Return the rows with noise at these rates of the words, and how many words were hit."""
    texts = [text for row in rows for text in row]
    owners = [number for number, row in enumerate(rows) for _ in row]
    places = [place for row in rows for place in range(len(row))]
    config = TextNoiseConfig(rate=sum(rates.values()), operations=rates)
    keys = example_keys(seed, "noise-fit", 0, range(len(rows)))
    result = corrupt(texts, owners, places, keys, config)
    noisy: list[list[str]] = [[] for _ in rows]
    for owner, text in zip(owners, result.texts, strict=True):
        noisy[owner].append(text)
    return [tuple(row) for row in noisy], sum(count for _, _, count in result.hits)


def fit_rates(
    observed: Sequence[Row],
    clean: Sequence[Row],
    count_row: CountRow,
    *,
    seed: int,
    count_clean: CountRow | None = None,
    operations: Sequence[str] | None = None,
) -> Fit:
    """Return the rate of each operation that the observed rows show, as a share of the words.

    Args:
        observed: Noisy rows.
        clean: Rows to simulate on.
        count_row: Counts an observed row.
        seed: For simulation and resampling.
        count_clean: Counts a simulated row; ``count_row`` if its numbers fit ``clean`` too.
        operations: What may be in the mix; all on words if not given.

    Raises:
        LopeError: hardly a word can be changed by any.
    """
    count_clean = count_clean or count_row
    names = list(operations or _word_operations())
    clean = clean[:_PROBE_ROWS]
    classes: list[str] = []
    seen = Counts(observed, count_row, classes)
    plain = Counts(clean, count_clean, classes)
    probes, hit, num_hits = {}, {}, {}
    for name in names:
        noisy, num_hit = simulated(clean, {name: _PROBE_RATE}, seed)
        if num_hit >= _PROBE_HITS:
            hit[name] = num_hit / plain.words.sum()
            num_hits[name] = num_hit
            probes[name] = Counts(noisy, count_clean, classes)
    not_judged = tuple(name for name in names if name not in probes)
    if not probes:
        raise LopeError(
            f"No operation can change {_PROBE_HITS} of the {int(plain.words.sum())} words at "
            f"{_PROBE_RATE:.0%}: the rows are too few for a fit; give more, better 2,000."
        )
    names = list(probes)
    base = plain.matrix(classes).sum(0) / plain.words.sum()
    effects = np.stack(
        [(_share(probes[name], classes) - base) / hit[name] for name in names], axis=1
    )
    matrix = seen.matrix(classes)
    names, effects = _only_present(names, effects, matrix, seen.words, base)
    if not names:
        return Fit({}, not_judged)
    rates = _solve(effects, matrix.sum(0), seen.words.sum(), base)
    factors = _correction(names, rates, effects, base, clean, count_clean, classes, seed)
    draws = _resampled(effects, matrix, seen.words, base, seed) * factors
    in_mixes = _CORRECTIONS * rates * plain.words.sum()
    inexact = np.sqrt([1 / num_hits[name] for name in names] + 1 / np.maximum(in_mixes, 1))
    draws *= np.random.default_rng(seed + 1).normal(1, inexact, draws.shape)  # of simulation
    draws = np.maximum(draws, 0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    found = {
        name: Estimate(float(rates[i] * factors[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(names)
    }
    return Fit(found, not_judged)


def _word_operations() -> list[str]:
    return [name for name in NOISE if not isinstance(NOISE[name], ResponseOperation)]


def _share(counts: Counts, classes: Sequence[str]) -> NDArray[np.float64]:
    return counts.matrix(classes).sum(0) / counts.words.sum()


def _solve(
    effects: NDArray[np.float64],
    counts: NDArray[np.float64],
    words: float,
    base: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return non-negative rates; classes weigh by how exactly they are counted (Poisson)."""
    error = np.sqrt(np.maximum(counts, 4.0)) / words + 0.02 * base
    return nnls(effects / error[:, None], (counts / words - base) / error)[0]


def _resampled(
    effects: NDArray[np.float64],
    matrix: NDArray[np.float64],
    words: NDArray[np.float64],
    base: NDArray[np.float64],
    seed: int,
) -> NDArray[np.float64]:
    """Return the rates of bootstrap samples of the rows; shape (samples, operations)."""
    rng = np.random.default_rng(seed)
    solved = []
    for _ in range(_RESAMPLES):
        weights = np.bincount(rng.integers(0, len(words), len(words)), minlength=len(words))
        solved.append(_solve(effects, weights @ matrix, float(weights @ words), base))
    return np.array(solved)


def _only_present(
    names: list[str],
    effects: NDArray[np.float64],
    matrix: NDArray[np.float64],
    words: NDArray[np.float64],
    base: NDArray[np.float64],
) -> tuple[list[str], NDArray[np.float64]]:
    """Drop operations, the weakest first, that the data can be explained without."""
    counts, total = matrix.sum(0), words.sum()
    error = np.sqrt(np.maximum(counts, 4.0)) / total + 0.02 * base

    def misfit(columns: list[int]) -> float:
        target = (counts / total - base) / error
        if not columns:
            return float(target @ target)
        return nnls(effects[:, columns] / error[:, None], target)[1] ** 2

    kept = list(range(len(names)))
    while kept:
        now = misfit(kept)
        worse = [misfit([k for k in kept if k != column]) - now for column in kept]
        weakest = int(np.argmin(worse))
        if worse[weakest] > 9.0:  # three standard errors
            break
        del kept[weakest]
    return [names[k] for k in kept], effects[:, kept]


def _correction(
    names: list[str],
    rates: NDArray[np.float64],
    effects: NDArray[np.float64],
    base: NDArray[np.float64],
    clean: Sequence[Row],
    count_clean: CountRow,
    classes: list[str],
    seed: int,
) -> NDArray[np.float64]:
    """Return by what the rates must be multiplied so that simulating them gives them back.

    Probes hold one operation each; where hits of several meet, they are seen as something else.
    """
    if rates.sum() > 0.9:
        return np.ones(len(names))
    mix = dict(zip(names, rates.tolist(), strict=True))
    found = []
    for number in range(1, _CORRECTIONS + 1):
        noisy, _ = simulated(clean, mix, seed + number)
        again = Counts(noisy, count_clean, classes)
        counts = again.matrix(classes[: len(base)]).sum(0)
        found.append(_solve(effects, counts, again.words.sum(), base))
    return np.clip(rates / np.maximum(np.mean(found, axis=0), 1e-9), 0.5, 2.0)
