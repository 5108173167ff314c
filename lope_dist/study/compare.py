"""How far apart two rows of a study are, and how sure that is.

Both rows are known for the same seeds and, where losses or scores of single documents are there,
for the same documents. The difference is taken seed by seed. Its 95 % interval is Student's t over
seeds and documents as two crossed random factors: the variance of the mean is that over seeds plus
that over documents, less what both count, with Satterthwaite's degrees of freedom. Few seeds thus
give the wide interval that they deserve. In a mean over tasks the documents of each task vary by
themselves: a study is of these tasks, not of a sample of tasks.

Where a document's part is not known, or the rows were scored on different ones, the two standard
errors stand for the documents; they count as independent, which makes the interval too wide rather
than too narrow. A figure that no documents stand behind (drift) has the t interval over seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lope_dist.core.errors import LopeError
from lope_dist.core.intervals import Variance, half_width
from lope_dist.study.observe import Observation, Series

SEEDS_FOR_A_VERDICT = 3
"""With fewer of them an interval says little about other seeds, and no claim is judged."""

_Pairs = list[tuple[Observation, Observation]]
"""First and second row, by seed."""


@dataclass(frozen=True)
class Effect:
    """A difference of two rows, first less second."""

    mean: float
    per_seed: dict[int, float]
    ci95: tuple[float, float] | None
    """None where nothing tells how sure it is."""
    over: str
    """What the interval is over."""
    is_clear: bool
    """Whether there are seeds enough and the interval excludes 0."""
    p_seeds: float | None
    """Two-sided paired t test over the seeds; None with fewer than three."""


def compare(first: Series, second: Series) -> Effect | None:
    """Return first less second over the seeds that both have; None where there are none.

    The base model's figure stands beside each seed of the other row: it depends on none.

    Raises:
        LopeError: losses of different documents.
    """
    first, second = _at_each_seed(first, second), _at_each_seed(second, first)
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    pairs = [(first[seed], second[seed]) for seed in seeds]
    differences = np.array([a.value - b.value for a, b in pairs])
    over, variances = _variances(pairs, differences)
    mean, interval = float(differences.mean()), None
    if variances:
        half = half_width(variances)
        interval = (mean - half, mean + half)
    return Effect(
        mean=mean,
        per_seed={s: float(d) for s, d in zip(seeds, differences, strict=True)},
        ci95=interval,
        over=over,
        is_clear=len(seeds) >= SEEDS_FOR_A_VERDICT
        and interval is not None
        and not interval[0] <= 0 <= interval[1],
        p_seeds=_p_value(differences),
    )


def _variances(pairs: _Pairs, differences: np.ndarray) -> tuple[str, list[Variance]]:
    """Return what the interval is over and the parts of the mean's variance."""
    num_seeds = len(differences)
    parts: dict[str, list[Variance]] = {}
    if _have_the_same_documents(pairs):
        parts["documents"] = _over_documents(pairs)
    elif (error := _unpaired_error(pairs)) is not None:
        parts["unpaired documents"] = [Variance(error**2, math.inf)]
    if num_seeds > 1:
        over_seeds = float(differences.var(ddof=1)) / num_seeds
        parts["seeds"] = [Variance(over_seeds, num_seeds - 1)]
    return " and ".join(parts) or "nothing", [one for part in parts.values() for one in part]


def _over_documents(pairs: _Pairs) -> list[Variance]:
    """Return the variance over documents and, with several seeds, what the seeds count too.

    A ratio of sums is taken to first order: a document moves it by its distance from the ratio
    over the mean count.
    """
    variances = []
    for part, documents in enumerate(pairs[0][0].documents):
        size = len(documents.ids)
        if size < 2:
            continue
        moves_SN = np.zeros((len(pairs), size))
        for seed, (first, second) in enumerate(pairs):
            for sign, one in ((1, first.documents[part]), (-1, second.documents[part])):
                ratio = one.totals.sum() / one.counts.sum()
                distance_N = (one.totals - ratio * one.counts) / one.counts.mean()
                moves_SN[seed] += sign * one.share * distance_N
        mean_N = moves_SN.mean(axis=0)
        variances.append(Variance(float(mean_N.var(ddof=1)) / size, size - 1))
        if (num_seeds := len(pairs)) > 1:
            degrees = (num_seeds - 1) * (size - 1)
            rest = float(((moves_SN - mean_N) ** 2).sum()) / degrees
            variances.append(Variance(rest / (num_seeds * size), degrees, sign=-1))
    return variances


def _unpaired_error(pairs: _Pairs) -> float | None:
    """Return the standard error of a difference of independent rows; None where one is unknown."""
    errors = [(first.stderr, second.stderr) for first, second in pairs]
    if any(error is None for pair in errors for error in pair):
        return None
    return float(np.mean([math.hypot(*(error or 0.0 for error in pair)) for pair in errors]))


def _p_value(differences: np.ndarray) -> float | None:
    """Return the paired t test's p; None with fewer than three seeds, or none that differs."""
    num_seeds = len(differences)
    if num_seeds < SEEDS_FOR_A_VERDICT or np.allclose(differences, differences[0], rtol=1e-9):
        return None
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(num_seeds))
    return float(2 * stats.t.sf(abs(t), num_seeds - 1))


def _at_each_seed(series: Series, other: Series) -> Series:
    (first, *_) = series.values() or (None,)
    return dict.fromkeys(other, first) if first is not None and first.is_base else series


def _have_the_same_documents(pairs: _Pairs) -> bool:
    """Tell whether all rows and seeds hold the same documents."""
    sides = [side for pair in pairs for side in pair]
    if not all(side.documents for side in sides):
        return False
    ids = [part.ids for part in sides[0].documents]
    for side in sides:
        if [part.ids for part in side.documents] != ids:
            if all(part.may_differ for part in side.documents):
                return False
            raise LopeError(
                f"{sides[0].source} and {side.source} hold losses of different documents; run "
                "`lope study run` to complete them."
            )
    return True
