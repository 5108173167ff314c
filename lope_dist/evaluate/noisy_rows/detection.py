"""How well scores tell noisy rows from clean ones, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from lope_dist.evaluate.noisy_rows.truth import Truth
from lope_dist.noise.base import NOISE

SHORT_TOKENS = 20
"""A response of no more tokens is short."""
_WHOLE_ANSWER = frozenset(name for name in NOISE if "response" in NOISE[name].units)
_FALSE_ALARMS = np.linspace(0, 1, 101)


def auroc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error.

    The area is the chance that a noisy row scores above a clean one, a tie counting half
    (Mann and Whitney's U); the error is Hanley and McNeil's (1982).
    """
    n, m = len(positive), len(negative)
    area = float(mannwhitneyu(positive, negative).statistic) / (n * m)
    of_positives = area / (2 - area) - area**2
    of_negatives = 2 * area**2 / (1 + area) - area**2
    variance = area * (1 - area) + (n - 1) * of_positives + (m - 1) * of_negatives
    return area, math.sqrt(max(0.0, variance) / (n * m))


def precision_at(scores: NDArray[np.float64], is_noisy: NDArray[np.bool_], k: int) -> float:
    """Return the share of noisy rows among the ``k`` that score highest.

    Of rows that tie for the last places each counts by its chance to be among them.
    """
    last = np.sort(scores)[-k]
    above, tied = scores > last, scores == last
    return float(is_noisy[above].sum() + (k - above.sum()) * is_noisy[tied].mean()) / k


def roc(scores: NDArray[np.float64], is_noisy: NDArray[np.bool_]) -> list[float]:
    """Return the share of noisy rows found at 0, 1, ..., 100 % of the clean rows taken for noisy.

    Rows of one score are taken together, so between two scores the curve is a straight line.
    """
    thresholds, of_row = np.unique(-scores, return_inverse=True)
    hits = np.bincount(of_row, is_noisy, len(thresholds)).cumsum() / is_noisy.sum()
    alarms = np.bincount(of_row, ~is_noisy, len(thresholds)).cumsum() / (~is_noisy).sum()
    shares = np.interp(_FALSE_ALARMS, [0.0, *alarms], [0.0, *hits])
    return [round(float(value), 4) for value in shares]


def detection(
    scores: Sequence[Mapping[str, float | None]], truth: Sequence[Truth], num_tokens: Sequence[int]
) -> dict[str, Any]:
    """Return AUROC of each score in each group of rows, precision at k, and ROC curves.

    Of the rows that have a value for each of their scores, by the scores that all of them have.

    A group has noisy and clean rows: `all`; `short`, responses of at most `SHORT_TOKENS` tokens;
    `one_hit`, a single word or character against all clean rows; `operation: x` and `field: x`,
    rows hit in this way alone against all clean rows. Groups without noisy or without clean rows
    are left out.

    Args:
        scores: Of each row, by name; the larger, the noisier.
        truth: Of each row.
        num_tokens: Of each row's response.
    """
    complete = [n for n, row in enumerate(scores) if None not in row.values()]
    names = [name for name in (scores[0] if scores else ()) if all(name in row for row in scores)]
    values = {name: np.array([scores[n][name] for n in complete], np.float64) for name in names}
    truth = [truth[n] for n in complete]
    num_tokens = [num_tokens[n] for n in complete]
    is_noisy = np.array([bool(operations) for operations in truth], np.bool_)
    groups = {}
    for name, belongs in _groups(truth, num_tokens).items():
        noisy = np.array([bool(d) and belongs(i) for i, d in enumerate(truth)], np.bool_)
        clean = ~is_noisy
        if name == "short":
            clean = clean & np.array([belongs(i) for i in range(len(truth))], np.bool_)
        if noisy.any() and clean.any():
            areas = {key: auroc(column[noisy], column[clean]) for key, column in values.items()}
            groups[name] = {
                "num_noisy": int(noisy.sum()),
                "num_clean": int(clean.sum()),
                "auroc": {key: round(area, 4) for key, (area, _) in areas.items()},
                "stderr": {key: round(error, 4) for key, (_, error) in areas.items()},
            }
    num_noisy = int(is_noisy.sum())
    result: dict[str, Any] = {"num_noisy": num_noisy, "num_clean": len(truth) - num_noisy}
    if 0 < num_noisy < len(truth):
        ks = sorted({k for k in (10, 50, 100, num_noisy) if k <= len(truth)})
        result["precision_at"] = {
            key: {str(k): round(precision_at(column, is_noisy, k), 4) for k in ks}
            for key, column in values.items()
        }
        result["roc"] = {key: roc(column, is_noisy) for key, column in values.items()}
    return result | {"groups": groups}


def _groups(truth: Sequence[Truth], num_tokens: Sequence[int]) -> dict[str, Callable[[int], bool]]:
    """Return group -> whether a row belongs to it."""

    def alone(key: str, name: str) -> Callable[[int], bool]:
        return lambda i: {entry[key] for entry in truth[i]} == {name}

    def one_hit(i: int) -> bool:
        hits = truth[i]
        return sum(h["count"] for h in hits) == 1 and hits[0]["operation"] not in _WHOLE_ANSWER

    groups: dict[str, Callable[[int], bool]] = {
        "all": lambda i: True,
        "short": lambda i: num_tokens[i] <= SHORT_TOKENS,
        "one_hit": one_hit,
    }
    for key in ("operation", "field"):
        names = sorted({entry[key] for operations in truth for entry in operations})
        groups |= {f"{key}: {name}": alone(key, name) for name in names}
    return groups
