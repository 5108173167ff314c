"""From counts by class to a mix and its rates: simulate each operation, solve, resample.

Counts are ambiguous: a swapped letter may look like a near key, a homophone like a lost letter.
So each operation is run on clean text and counted the same way, which says what it looks like,
and the mix is the non-negative combination of the operations that looks like the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """The rates that the data show."""

    rates: dict[str, Estimate]
    """Operation -> share of the words that it hits; of those that are there."""
    not_judged: tuple[str, ...]
    """Operations that hardly a word can take."""


class Counts:
    """Counts by class, row by row."""

    def __init__(self, rows: Sequence[Row], count_row: CountRow) -> None:
        counted = [count_row(number, row) for number, row in enumerate(rows)]
        self.rows = [counts for counts, _ in counted]
        self.words = np.array([words for _, words in counted], float)

    def matrix(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """Return the counts; shape (rows, classes)."""
        return np.array([[row[name] for name in classes] for row in self.rows], float)

    def shares(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """Return the counts of all rows together, of each word."""
        return self.matrix(classes).sum(0) / self.words.sum()


@dataclass(frozen=True)
class _Equations:
    """What rates are solved from: shares of classes are those of clean text and each rate's effect.

    Shapes: C classes, O operations.
    """

    names: list[str]
    """(O,) the operations."""
    effects_CO: NDArray[np.float64]
    base_C: NDArray[np.float64]
    """Shares in clean text."""

    def solve(self, counts_C: NDArray[np.float64], words: float) -> NDArray[np.float64]:
        """Return the non-negative rates (O,) that explain the counts best."""
        return self._fitted(counts_C, words)[0]

    def misfit(self, counts_C: NDArray[np.float64], words: float) -> float:
        """Return the squared distance that is left of the counts, in standard errors."""
        return self._fitted(counts_C, words)[1] ** 2

    def of(self, columns: list[int]) -> _Equations:
        """Return the equations of some of the operations."""
        names = [self.names[column] for column in columns]
        return replace(self, names=names, effects_CO=self.effects_CO[:, columns])

    def _fitted(
        self, counts_C: NDArray[np.float64], words: float
    ) -> tuple[NDArray[np.float64], float]:
        """Return rates and misfit; a class weighs by how exactly it is counted (Poisson)."""
        error_C = np.sqrt(np.maximum(counts_C, 4.0)) / words + 0.02 * self.base_C
        target_C = (counts_C / words - self.base_C) / error_C
        if not self.names:
            return np.zeros(0), float(np.linalg.norm(target_C))
        return nnls(self.effects_CO / error_C[:, None], target_C)


def simulated(rows: Sequence[Row], rates: dict[str, float], seed: int) -> tuple[list[Row], int]:
    """Return the rows with noise at these rates of the words, and how many words were hit."""
    texts = [text for row in rows for text in row]
    owners = [number for number, row in enumerate(rows) for _ in row]
    numbers_in_rows = [number_in_row for row in rows for number_in_row in range(len(row))]
    config = TextNoiseConfig(rate=sum(rates.values()), operations=rates)
    keys = example_keys(seed, "noise-fit", 0, range(len(rows)))
    result = corrupt(texts, owners, numbers_in_rows, keys, config)
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
    seen, plain = Counts(observed, count_row), Counts(clean, count_clean)
    num_words = plain.words.sum()
    probes: dict[str, Counts] = {}
    num_hits: dict[str, int] = {}
    for name in names:
        noisy, num_hit = simulated(clean, {name: _PROBE_RATE}, seed)
        if num_hit >= _PROBE_HITS:
            probes[name], num_hits[name] = Counts(noisy, count_clean), num_hit
    not_judged = tuple(name for name in names if name not in probes)
    if not probes:
        raise LopeError(
            f"No operation can change {_PROBE_HITS} of the {int(num_words)} words at "
            f"{_PROBE_RATE:.0%}: the rows are too few for a fit; give more, better 2,000."
        )
    counted = (seen, plain, *probes.values())
    classes = list(dict.fromkeys(name for counts in counted for row in counts.rows for name in row))
    base = plain.shares(classes)
    effects = [
        (probe.shares(classes) - base) / (num_hits[name] / num_words)
        for name, probe in probes.items()
    ]
    equations = _Equations(list(probes), np.stack(effects, axis=1), base)
    matrix = seen.matrix(classes)
    total = matrix.sum(0), float(seen.words.sum())
    equations = _only_present(equations, *total)
    if not equations.names:
        return Fit({}, not_judged)
    rates = equations.solve(*total)

    def solved_again(mix: dict[str, float], seed: int) -> NDArray[np.float64]:
        """Return the rates that noise of a known mix shows."""
        again = Counts(simulated(clean, mix, seed)[0], count_clean)
        return equations.solve(again.matrix(classes).sum(0), float(again.words.sum()))

    factors = _correction(equations.names, rates, solved_again, seed)
    draws = _resampled(equations, matrix, seen.words, seed) * factors
    in_mixes = _CORRECTIONS * rates * num_words
    in_probes = np.array([num_hits[name] for name in equations.names])
    inexact = np.sqrt(1 / in_probes + 1 / np.maximum(in_mixes, 1))
    draws *= np.random.default_rng(seed + 1).normal(1, inexact, draws.shape)  # of simulation
    low, high = np.quantile(np.maximum(draws, 0), [0.025, 0.975], axis=0)
    ends = zip(equations.names, rates * factors, low, high, strict=True)
    return Fit({name: Estimate(*map(float, values)) for name, *values in ends}, not_judged)


def _word_operations() -> list[str]:
    return [name for name in NOISE if not isinstance(NOISE[name], ResponseOperation)]


def _resampled(
    equations: _Equations, matrix: NDArray[np.float64], words: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return the rates of bootstrap samples of the rows; shape (samples, operations)."""
    rng = np.random.default_rng(seed)
    solved = []
    for _ in range(_RESAMPLES):
        weights = np.bincount(rng.integers(0, len(words), len(words)), minlength=len(words))
        solved.append(equations.solve(weights @ matrix, float(weights @ words)))
    return np.array(solved)


def _only_present(equations: _Equations, counts: NDArray[np.float64], words: float) -> _Equations:
    """Drop operations, the weakest first, that the data can be explained without."""
    while equations.names:
        columns = range(len(equations.names))
        fewer = [equations.of([k for k in columns if k != column]) for column in columns]
        worse = [each.misfit(counts, words) for each in fewer]
        weakest = int(np.argmin(worse))
        if worse[weakest] - equations.misfit(counts, words) > 9.0:  # three standard errors
            break
        equations = fewer[weakest]
    return equations


def _correction(
    names: list[str],
    rates: NDArray[np.float64],
    solved_again: Callable[[dict[str, float], int], NDArray[np.float64]],
    seed: int,
) -> NDArray[np.float64]:
    """Return by what the rates must be multiplied so that simulating them gives them back.

    Probes hold one operation each; where hits of several meet, they are seen as something else.
    """
    if rates.sum() > 0.9:
        return np.ones(len(names))
    mix = dict(zip(names, rates.tolist(), strict=True))
    solved = [solved_again(mix, seed + number) for number in range(1, _CORRECTIONS + 1)]
    return np.clip(rates / np.maximum(np.mean(solved, axis=0), 1e-9), 0.5, 2.0)
