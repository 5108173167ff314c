"""Student's 95 % intervals of a mean whose variance has parts of few degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Variance:
    """A part of the variance of a mean, as it was estimated."""

    value: float
    degrees: float
    sign: int = 1


def half_width(variances: Sequence[Variance]) -> float:
    """Return half of the 95 % interval (Satterthwaite 1946).

    A part that is taken off is an estimate like the others. It never brings the variance below the
    largest part that is added.
    """
    signed = sum(one.sign * one.value for one in variances)
    total = max(signed, *(one.value for one in variances if one.sign > 0))
    if total == 0:
        return 0.0
    spread = sum(one.value**2 / one.degrees for one in variances)
    degrees = total**2 / spread if spread > 0 else math.inf
    return float(stats.t.ppf(0.975, degrees)) * math.sqrt(total)
