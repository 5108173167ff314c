"""Which share of a noise's cost a way to train recovers, and how sure that is.

    share = (floor - method) / (floor - ceiling)

Floor and ceiling are losses of the best baseline, with the noise and without it. The interval is
that of Fieller (1954): all shares R for which the contrast `(1 - R) floor - method + R ceiling`
may be 0 by its own t interval over seeds and documents. Seeds and documents thus move all three
losses together. Where the cost itself may be 0 there is no such interval, and no share.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from scipy.optimize import brentq

from lope_dist.study.cells import answer_of
from lope_dist.study.compare import contrast, too_few_seeds
from lope_dist.study.observe import Observations, Series

_FARTHEST = 1e6
"""Beyond this an end of an interval is none."""


def recovered(observations: Observations) -> dict[str, dict[str, dict[str, Any]]]:
    """Return noise -> method -> `share`, `ci95`, `seeds`, and what they are made of.

    A method that is not trained yet is left out, and so is a noise of which no baseline is.

    Raises:
        LopeError: losses of different documents.
    """
    study = observations.study.config
    config = study.recovered
    if config is None:
        return {}
    ceiling = _best(observations, config.clean)
    shares: dict[str, dict[str, dict[str, Any]]] = {}
    for noise in study.axes[config.axis]:
        floor = None if noise == config.clean else _best(observations, noise)
        if floor is None or ceiling is None:
            continue
        for name in study.variants:
            method = _series(observations, name, noise)
            seeds = sorted(set(method) & set(floor[1]) & set(ceiling[1]))
            if seeds:
                parts = [{s: series[s] for s in seeds} for series in (floor[1], method, ceiling[1])]
                sides = {"floor": f"{floor[0]}@{noise}", "ceiling": f"{ceiling[0]}@{config.clean}"}
                of_noise = shares.setdefault(noise, {})
                of_noise[name] = {**share_of(*parts), "seeds": seeds, **sides}
    return shares


def share_of(floor: Series, method: Series, ceiling: Series) -> dict[str, Any]:
    """Return `share`, `ci95` (None where there is none), `cost` and `notes`.

    Args:
        floor: Losses of the best baseline with the noise.
        method: What is judged; all three are of the same seeds.
        ceiling: Losses of the best baseline without the noise.
    """

    def judged(share: float) -> tuple[float, float]:
        """Return the contrast's mean and half of its interval."""
        weights = (1 - share, -1.0, share)
        rows = [
            [*zip(weights, (floor[s], method[s], ceiling[s]), strict=True)] for s in sorted(method)
        ]
        sums, _, half = contrast(rows)
        return float(sums.mean()), float("inf") if half is None else half

    lost = [[(1.0, floor[s]), (-1.0, ceiling[s])] for s in sorted(method)]
    costs, _, half = contrast(lost)
    cost = float(costs.mean())
    result: dict[str, Any] = {"share": None, "ci95": None, "cost": cost, "notes": []}
    if half is None or not cost - half > 0:
        result["notes"].append("the noise has no clear cost, of which nothing can be recovered")
        return result
    best = judged(0.0)[0] / cost
    result["share"] = best

    def excess(share: float) -> float:
        mean, half = judged(share)
        return abs(mean) - half

    ends = [_end(excess, best, direction) for direction in (-1, 1)]
    result["ci95"] = None if None in ends else ends
    result["notes"] += too_few_seeds(len(method))
    return result


def _end(excess: Callable[[float], float], start: float, direction: int) -> float | None:
    """Return where the shares end that the figures do not exclude; None where they do not."""
    near, step = start, 0.01
    while step < _FARTHEST:
        far = start + direction * step
        if excess(far) > 0:
            if excess(near) >= 0:
                return near
            root: Any = brentq(excess, near, far)
            return float(root)
        near, step = far, 2 * step
    return None


def _best(observations: Observations, point: str) -> tuple[str, Series] | None:
    """Return the baseline with the lowest loss at a point; None until all of them are there."""
    config = observations.study.config.recovered
    assert config is not None
    series_of = {name: _series(observations, name, point) for name in config.baselines}
    if not all(series_of.values()):
        return None
    means = {n: statistics.mean(seen.value for seen in s.values()) for n, s in series_of.items()}
    best = min(means, key=means.__getitem__)
    return best, series_of[best]


def _series(observations: Observations, variant: str, point: str) -> Series:
    config = observations.study.config.recovered
    assert config is not None
    row = answer_of(observations.study.config.variants[variant])
    return observations.series(f"{variant}@{point}", row, config.metric)
