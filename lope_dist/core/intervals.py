"""Student's 95 % intervals of a mean whose variance has parts of few degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Variance:
    """A part of the variance of a mean, as it was estimated."""

    value: float
    degrees: float
    sign: int = 1


def ratio_and_moves(totals: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a ratio of two sums, and to first order how far each item moves it.

    An item moves it by its distance from the ratio over the mean count; with counts of 1 the ratio
    is the mean.
    """
    ratio = totals.sum() / counts.sum()
    return float(ratio), (totals - ratio * counts) / counts.mean()


def variance_of_mean(moves: np.ndarray) -> Variance:
    """Return the variance of the mean of two or more independent items."""
    return Variance(float(moves.var(ddof=1)) / len(moves), len(moves) - 1)


def half_width(variances: Sequence[Variance]) -> float:
    """Return half of the 95 % interval (Satterthwaite 1946).

    A part that is taken off is an estimate like the others. It never brings the variance below the
    largest part that is added.
    """
    signed = sum(part.sign * part.value for part in variances)
    total = max(signed, *(part.value for part in variances if part.sign > 0))
    if total == 0:
        return 0.0
    spread = sum(part.value**2 / part.degrees for part in variances)
    degrees = total**2 / spread if spread > 0 else math.inf
    return float(stats.t.ppf(0.975, degrees)) * math.sqrt(total)
