"""How many learning rates and seeds of three methods fit into the time that is left."""

from __future__ import annotations

from typing import NamedTuple

from lope_dist.study.compare import SEEDS_FOR_A_VERDICT
from lope_dist.study.methods import METHODS

FACTORS = (1.0, 3.0, 1 / 3)
"""On the recipe's learning rates, in the order in which they are tried; the same for all."""
MOST_SEEDS = 5


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
