"""The weight that a row brings: how much its loss counts beside that of other rows."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lope_dist.corpus.rows.turns import IGNORED, Example, RowError

_MOST_WEIGHT = 1e30  # sums of weights stay finite


def weight_of(value: Any) -> float:
    """Return a row's weight; tables of text have it as a word.

    Raises:
        RowError: it is no number, not finite or below 0.
    """
    weight = math.nan
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            weight = float(value)
    if not 0 <= weight <= _MOST_WEIGHT:
        raise RowError("wrong weight", f"weight is {value!r}; it must be a number from 0 to 1e30")
    return weight


def weighted(example: Example, weight: float) -> Example:
    """Return the example with its weight; with weight 0 nothing of it is learnt."""
    if weight:
        return replace(example, weight=weight)
    turns = tuple(replace(turn, is_learnt=False) for turn in example.turns)
    tokens = example.tokens and (example.tokens[0], [IGNORED] * len(example.tokens[1]))
    return replace(example, turns=turns, tokens=tokens, weight=weight)
