"""The minutes of a comparison: what is left of them, and how many runs fit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple

from lope_dist.report.tables import format_duration
from lope_dist.study.compare import SEEDS_FOR_A_VERDICT
from lope_dist.study.methods import METHODS

STOPPING_S = 15.0
"""How long a run may take to stop once the time is over, before it is killed."""
_REPORT_S, _REPORT_STARTS = 15.0, 3.0
"""Time left for the report, at least; and how many times as long as the start of the command, which
shows how busy the machine is."""
_SPARE = 1.1
"""On what was measured, for runs that take longer."""
FACTORS = (1.0, 3.0, 1 / 3)
"""On the recipe's learning rates, in the order in which they are tried; the same for all."""
MOST_SEEDS = 5


class Clock:
    """The time that is left; it learns how long runs take.

    Args:
        minutes: All of the time, from the start of the command on.
        since_start_s: How long ago the command started.
    """

    def __init__(self, minutes: float, since_start_s: float) -> None:
        self._minutes = minutes
        report_s = max(_REPORT_S, _REPORT_STARTS * since_start_s)
        self._end = time.monotonic() - since_start_s + 60 * minutes - STOPPING_S - report_s
        self._seconds: dict[str, float] = {}
        self._scoring: dict[str, float] = {}
        self.has_forecast = False
        """Whether `forecast` was asked for."""

    def add(self, run: str, seconds: Mapping[str, float]) -> None:
        """Note how long the steps of a run took: `train`, and what scored it."""
        self._seconds[run] = sum(seconds.values())
        self._scoring[run] = self._seconds[run] - seconds.get("train", 0.0)

    @property
    def has_measured(self) -> bool:
        """Whether it knows how long a run takes."""
        return bool(self._seconds)

    @property
    def left(self) -> float:
        """Seconds to the end."""
        return max(0.0, self._end - time.monotonic())

    @property
    def left_for_search(self) -> float:
        """Seconds to the end, less what it takes to score the best run of each method."""
        scoring = statistics.mean(self._scoring.values()) if self._scoring else 0.0
        return max(0.0, self.left - _SPARE * len(METHODS) * scoring)

    @property
    def run_seconds(self) -> float:
        """What a run takes, with a tenth to spare."""
        return _SPARE * statistics.mean(self._seconds.values())

    @property
    def num_runs(self) -> float:
        """Runs that are done and that still fit."""
        return len(self._seconds) + self.left_for_search / self.run_seconds

    def forecast(self) -> str:
        """Return how long a run takes, and what follows from it, in a sentence or two."""
        self.has_forecast = True
        takes = f"A run takes about {format_duration(self.run_seconds)}"
        if self.num_runs < len(METHODS):
            return (
                f"{takes}, so {len(METHODS)} methods may need more than the {self._minutes:g} "
                "minutes. The same command continues where this one ends."
            )
        rates, seeds = plan(self.num_runs)
        return f"{takes}. Planned for each method: learning rates {rates}, seeds {seeds}."


class Plan(NamedTuple):
    """How many learning rates and seeds of each method to run."""

    num_rates: int
    num_seeds: int


def plan(num_runs: float) -> Plan:
    """Return the plan for so many runs in all.

    Every method is trained with one seed at each rate, and at the best of its rates with the other
    seeds. Three seeds come before the third rate: with fewer there is no verdict.
    """
    sets = int(num_runs / len(METHODS))  # a run of each method
    for num_rates in (3, 2):
        if sets >= num_rates + SEEDS_FOR_A_VERDICT - 1:
            return Plan(num_rates, min(MOST_SEEDS, sets - num_rates + 1))
    return Plan(min(2, max(1, sets)), max(1, sets - 1))
