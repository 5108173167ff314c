"""Noise-character insertion (NCI): a character too many."""

from __future__ import annotations

import string

from lope_dist.noise.base import NOISE, CharacterOperation

NOISE_CHARACTERS = "".join(
    c for c in string.ascii_lowercase + string.digits + string.punctuation if c not in "<>[]|"
)
"""No bracket and no bar, so that no special token can come about."""


@NOISE.register("char_insert")
@CharacterOperation
def char_insert(char: str, after: str, draw: float) -> tuple[str, str]:
    """Insert one ASCII letter, digit or mark before or behind the character.

    Paper: section 3.2; which characters is not given, these are a choice.
    """
    is_behind = draw >= 0.5
    added = NOISE_CHARACTERS[int((draw * 2 - is_behind) * len(NOISE_CHARACTERS))]
    return (char + added if is_behind else added + char), after
