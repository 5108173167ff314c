"""How far apart two rows of a study are, and how sure that is.

Both rows are known for the same seeds, and where losses of single documents are there, for the same
documents. The difference is taken seed by seed. Its interval comes from drawing seeds and documents
anew, with replacement: the documents are the same for all seeds and are drawn once for all of them.
Where a document's part is not known (accuracies), its draw is a normal one with the two standard
errors; they count as independent, which makes the interval too wide rather than too narrow. A
figure that no documents stand behind (drift) has the t interval over seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lope_dist.core.errors import LopeError
from lope_dist.core.seeds import example_rng
from lope_dist.study.observe import Series

ENOUGH_SEEDS = 5
"""With fewer of them an interval is about the documents more than about other seeds."""
_DRAWS = 4000
_AT_ONCE = 500


@dataclass(frozen=True)
class Effect:
    """A difference of two rows, first less second."""

    mean: float
    per_seed: dict[int, float]
    ci95: tuple[float, float] | None
    """None where nothing tells how sure it is."""
    over: str
    """What the interval is over."""
    p_seeds: float | None
    """Two-sided paired t test over the seeds; None with fewer than three."""


def compare(first: Series, second: Series) -> Effect | None:
    """Return first less second over the seeds that both have; None where there are none.

    A series of one seed beside one of several is the base model's, which depends on no seed.

    Raises:
        LopeError: losses of different documents.
    """
    first, second = _spread(first, second), _spread(second, first)
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    differences = np.array([first[s].value - second[s].value for s in seeds])
    num_seeds = len(seeds)
    over = "documents and seeds" if num_seeds >= ENOUGH_SEEDS else "documents, few seeds"
    generator = example_rng(0, "study_bootstrap", 0, 0)
    draws = _draw_documents(first, second, seeds, generator)
    if draws is None and num_seeds > 1:
        over = "seeds"
        half = stats.t.ppf(0.975, num_seeds - 1) * differences.std(ddof=1) / math.sqrt(num_seeds)
        interval = (float(differences.mean() - half), float(differences.mean() + half))
    elif draws is None:
        over, interval = "nothing", None
    else:
        chosen = generator.integers(num_seeds, size=draws.shape)
        means = np.take_along_axis(draws, chosen, axis=1).mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        interval = (float(low), float(high))
    return Effect(
        mean=float(differences.mean()),
        per_seed={s: float(d) for s, d in zip(seeds, differences, strict=True)},
        ci95=interval,
        over=over,
        p_seeds=_p_value(differences),
    )


def _p_value(differences: np.ndarray) -> float | None:
    """Return the paired t test's p; None with fewer than three seeds, or none that differs."""
    num_seeds = len(differences)
    if num_seeds < 3 or np.allclose(differences, differences[0], rtol=1e-9):
        return None
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(num_seeds))
    return float(2 * stats.t.sf(abs(t), num_seeds - 1))


def _spread(series: Series, other: Series) -> Series:
    if len(series) == 1 and len(other) > 1:
        (seen,) = series.values()
        return dict.fromkeys(other, seen)
    return series


def _draw_documents(
    first: Series, second: Series, seeds: list[int], generator: np.random.Generator
) -> np.ndarray | None:
    """Return each seed's difference with the documents drawn anew, ``(draws, seeds)``."""
    pairs = [(first[seed], second[seed]) for seed in seeds]
    sides = [(a.documents, b.documents) for a, b in pairs if a.documents and b.documents]
    if len(sides) == len(seeds):
        ids = sides[0][0].ids
        if any(side.ids != ids for pair in sides for side in pair):
            raise LopeError(
                f"{pairs[0][0].source} and {pairs[0][1].source} hold losses of different "
                "documents; run `lope study run` to complete them."
            )
        return np.concatenate(
            [_ratios(sides, len(ids), generator) for _ in range(_DRAWS // _AT_ONCE)]
        )
    errors = [(a.stderr, b.stderr) for a, b in pairs]
    if any(e is None for pair in errors for e in pair):
        return None
    joint = np.mean([math.hypot(*(e or 0.0 for e in pair)) for pair in errors])
    differences = np.array([a.value - b.value for a, b in pairs])
    return differences + joint * generator.standard_normal((_DRAWS, 1))


def _ratios(sides: list, num_documents: int, generator: np.random.Generator) -> np.ndarray:
    chosen = generator.multinomial(
        num_documents, np.full(num_documents, 1 / num_documents), size=_AT_ONCE
    ).astype(float)
    columns = [
        chosen @ a.totals / (chosen @ a.counts) - chosen @ b.totals / (chosen @ b.counts)
        for a, b in sides
    ]
    return np.stack(columns, axis=1)
