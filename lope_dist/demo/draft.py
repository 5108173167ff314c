"""What a family of tasks is: a function that draws one question of the train or the test side.

A family has a fixed set of *facts* (a country, an adjective, a verb) and several ways to ask
about each. Facts, not questions, are split into train and test, so that a test question never
asks about a fact that training has shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lope_dist.core.registry import Registry
from lope_dist.core.seeds import derive_key

_TEST_SHARE = 4  # every fourth fact is held out


@dataclass(frozen=True)
class Draft:
    """One question with its right answer and the wrong ones."""

    fact: str
    """What the question is about; facts are split into train and test."""
    instruction: str
    input: str
    output: str
    wrong: tuple[str, ...]


OnSide = Callable[[str], bool]
"""Whether a fact belongs to the side (train or test) that is being drawn."""

Family = Callable[[np.random.Generator, OnSide], Draft]

FAMILIES: Registry[Family] = Registry("demo family", package="lope_dist.demo.families")


@cache
def is_held_out(family: str, fact: str) -> bool:
    """Return whether the fact is for the test; depends on nothing else, not even the seed."""
    return derive_key(0, f"demo split: {family}: {fact}") % _TEST_SHARE == 0


def pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    """Return one item, all equally likely."""
    return items[int(rng.integers(len(items)))]


def pick_fact(rng: np.random.Generator, facts: Sequence[str], is_on_side: OnSide) -> str:
    """Return one fact of the side that is drawn, all equally likely."""
    usable = [fact for fact in facts if is_on_side(fact)]
    assert usable, f"every one of these facts is on the other side: {list(facts)}"
    return pick(rng, usable)


def others(labels: Sequence[str], label: str) -> tuple[str, ...]:
    """Return the labels but ``label``."""
    return tuple(other for other in labels if other != label)
