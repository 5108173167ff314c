"""How far apart two rows of a study are, and how sure that is.

Both rows are known for the same seeds, and where losses or scores of single documents are there,
for the same documents. The difference is taken seed by seed. Its interval comes from drawing seeds
and documents anew, with replacement: the documents are the same for all seeds and are drawn once
for all of them. In a mean over tasks those of each task are drawn by themselves: a study is of
these tasks, not of a sample of tasks. Where a document's part is not known, or the rows were scored
on different ones, the draw is a normal one with the two standard errors; they count as independent,
which makes the interval too wide rather than too narrow. A figure that no documents stand behind
(drift) has the t interval over seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lope_dist.core.errors import LopeError
from lope_dist.core.seeds import example_rng
from lope_dist.study.observe import Observation, Series

ENOUGH_SEEDS = 5
"""With fewer of them an interval is about the documents more than about other seeds."""
_DRAWS = 4000
_AT_ONCE = 500

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
    p_seeds: float | None
    """Two-sided paired t test over the seeds; None with fewer than three."""


def compare(first: Series, second: Series) -> Effect | None:
    """Return first less second over the seeds that both have; None where there are none.

    The base model's figure stands beside each seed of the other row: it depends on none.

    Raises:
        LopeError: losses of different documents.
    """
    first, second = _spread(first, second), _spread(second, first)
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    pairs = [(first[seed], second[seed]) for seed in seeds]
    differences = np.array([a.value - b.value for a, b in pairs])
    num_seeds = len(seeds)
    generator = example_rng(0, "study_bootstrap", 0, 0)
    if _have_the_same_documents(pairs):
        over, draws = "documents", _draw_documents(pairs, generator)
    else:
        over, draws = "unpaired documents", _draw_unpaired(pairs, generator)
    over += " and seeds" if num_seeds >= ENOUGH_SEEDS else ", few seeds"
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
    (first, *_) = series.values() or (None,)
    return dict.fromkeys(other, first) if first is not None and first.is_base else series


def _have_the_same_documents(pairs: _Pairs) -> bool:
    """Tell whether all rows and seeds can be drawn together."""
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


def _draw_documents(pairs: _Pairs, generator: np.random.Generator) -> np.ndarray:
    """Return each seed's difference with the documents drawn anew, ``(draws, seeds)``."""
    draws = np.zeros((_DRAWS, len(pairs)))
    for part, documents in enumerate(pairs[0][0].documents):
        size = len(documents.ids)
        for start in range(0, _DRAWS, _AT_ONCE):
            chosen = generator.multinomial(size, np.full(size, 1 / size), size=_AT_ONCE)
            chosen = chosen.astype(float)
            for seed, (first, second) in enumerate(pairs):
                for sign, one in ((1, first.documents[part]), (-1, second.documents[part])):
                    ratio = chosen @ one.totals / (chosen @ one.counts)
                    draws[start : start + _AT_ONCE, seed] += sign * one.share * ratio
    return draws


def _draw_unpaired(pairs: _Pairs, generator: np.random.Generator) -> np.ndarray | None:
    """Return the same from the standard errors alone; None where one is not known."""
    errors = [(first.stderr, second.stderr) for first, second in pairs]
    if any(error is None for pair in errors for error in pair):
        return None
    joint = np.mean([math.hypot(*(error or 0.0 for error in pair)) for pair in errors])
    differences = np.array([first.value - second.value for first, second in pairs])
    return differences + joint * generator.standard_normal((_DRAWS, 1))
