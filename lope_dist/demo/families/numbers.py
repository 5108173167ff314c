"""Tasks whose answers can be computed: size of a number in words, length of a list."""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import numpy as np

from lope_dist.demo.draft import FAMILIES, Draft, OnSide, others, pick

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = ". . twenty thirty forty fifty sixty seventy eighty ninety".split()

THINGS = (
    "apple chair dog river book lamp coat spoon horse window cloud pencil boat cheese garden "
    "mirror basket candle tiger violin bottle ladder pillow tomato bridge clock jacket lemon "
    "hammer island kettle wagon rabbit carpet button feather blanket mountain ticket whistle"
).split()

_SIZES = ("low", "high")
_SIZE_ASKED = (
    "Is the number low or high?",
    "Tell whether this number is low or high.",
    "Sort the number by its size.",
)
_COUNTS = ("2", "3", "4", "5")
_COUNT_ASKED = (
    "How many things are listed?",
    "Count the things in the list.",
    "Give the number of things named.",
)


def number_in_words(number: int) -> str:
    """Return ``"three hundred and twelve"`` for 312; up to 999."""
    assert 0 <= number < 1000
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{ONES[hundreds]} hundred" + (f" and {number_in_words(rest)}" if rest else "")


@FAMILIES.register("magnitude")
def draw_magnitude(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """Whether a number in words is below five hundred (`low`) or not (`high`), up to 999."""
    answer = pick(rng, _SIZES)
    while True:
        words = number_in_words(int(rng.integers(500)) + 500 * (answer == "high"))
        if is_on_side(words):
            break
    return Draft(words, pick(rng, _SIZE_ASKED), words, answer, others(_SIZES, answer))


@FAMILIES.register("count")
def draw_count(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """How many different things a list names, two to five."""
    answer = pick(rng, _COUNTS)
    while True:
        chosen = [THINGS[i] for i in rng.choice(len(THINGS), int(answer), replace=False)]
        fact = " ".join(sorted(chosen))
        if is_on_side(fact):
            break
    listed = f"{', '.join(chosen[:-1])} and {chosen[-1]}"
    return Draft(fact, pick(rng, _COUNT_ASKED), listed, answer, others(_COUNTS, answer))
