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

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lope_dist.core.errors import LopeError
from lope_dist.core.intervals import Variance, half_width, ratio_and_moves, variance_of_mean
from lope_dist.study.observe import Observation, Series

SEEDS_FOR_A_VERDICT = 3
"""With fewer of them an interval says little about other seeds, and no claim is judged."""

Weighted = list[tuple[float, Observation]]
"""Figures of one seed and their weights; what is judged is the weighted sum."""


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


def too_few_seeds(num_seeds: int) -> list[str]:
    """Return the note that so few seeds bear no verdict, if that is so."""
    if num_seeds >= SEEDS_FOR_A_VERDICT:
        return []
    return [f"{num_seeds} seed{'s' * (num_seeds > 1)}: no verdict below {SEEDS_FOR_A_VERDICT}"]


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
    pairs: list[Weighted] = [[(1.0, first[seed]), (-1.0, second[seed])] for seed in seeds]
    differences, over, half = contrast(pairs)
    mean = float(differences.mean())
    interval = None if half is None else (mean - half, mean + half)
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


def contrast(seeds: Sequence[Weighted]) -> tuple[np.ndarray, str, float | None]:
    """Return the weighted sum of each seed, what the interval is over, and half of it.

    Args:
        seeds: For each seed the same rows with the same weights.

    Raises:
        LopeError: losses of different documents.
    """
    sums = np.array([sum(weight * seen.value for weight, seen in row) for row in seeds])
    over, variances = _variances(seeds, sums)
    return sums, over, half_width(variances) if variances else None


def _variances(seeds: Sequence[Weighted], sums: np.ndarray) -> tuple[str, list[Variance]]:
    """Return what the interval is over and the parts of the mean's variance."""
    parts: dict[str, list[Variance]] = {}
    if _have_the_same_documents(seeds):
        parts["documents"] = _over_documents(seeds)
    elif (error := _unpaired_error(seeds)) is not None:
        parts["unpaired documents"] = [Variance(error**2, math.inf)]
    if len(sums) > 1:
        parts["seeds"] = [variance_of_mean(sums)]
    return " and ".join(parts) or "nothing", [*itertools.chain(*parts.values())]


def _over_documents(seeds: Sequence[Weighted]) -> list[Variance]:
    """Return the variance over documents and, with several seeds, what the seeds count too."""
    variances = []
    for part, documents in enumerate(seeds[0][0][1].documents):
        size = len(documents.ids)
        if size < 2:
            continue
        moves_SN = np.zeros((len(seeds), size))
        for seed, row in enumerate(seeds):
            for weight, seen in row:
                task = seen.documents[part]
                _, moves_N = ratio_and_moves(task.totals, task.counts)
                moves_SN[seed] += weight * task.share * moves_N
        mean_N = moves_SN.mean(axis=0)
        variances.append(variance_of_mean(mean_N))
        if (num_seeds := len(seeds)) > 1:
            degrees = (num_seeds - 1) * (size - 1)
            rest = float(((moves_SN - mean_N) ** 2).sum()) / degrees
            variances.append(Variance(rest / (num_seeds * size), degrees, sign=-1))
    return variances


def _unpaired_error(seeds: Sequence[Weighted]) -> float | None:
    """Return the standard error of a sum of independent rows; None where one is unknown."""
    if any(seen.stderr is None for row in seeds for _, seen in row):
        return None
    errors = [[weight * (seen.stderr or 0.0) for weight, seen in row] for row in seeds]
    return float(np.mean([math.hypot(*row) for row in errors]))


def _p_value(differences: np.ndarray) -> float | None:
    """Return the paired t test's p; None with fewer than three seeds, or none that differs."""
    if len(differences) < SEEDS_FOR_A_VERDICT or np.allclose(
        differences, differences[0], rtol=1e-9
    ):
        return None
    result: Any = stats.ttest_1samp(differences, 0.0)
    return float(result.pvalue)


def _at_each_seed(series: Series, other: Series) -> Series:
    (first, *_) = series.values() or (None,)
    return dict.fromkeys(other, first) if first is not None and first.is_base else series


def _have_the_same_documents(seeds: Sequence[Weighted]) -> bool:
    """Tell whether all rows and seeds hold the same documents."""
    sides = [seen for row in seeds for _, seen in row]
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
