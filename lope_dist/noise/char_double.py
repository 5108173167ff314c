"""Doubled character: a key pressed twice."""

from __future__ import annotations

from lope_dist.noise.base import NOISE, CharacterOperation


@NOISE.register("char_double")
@CharacterOperation
def char_double(char: str, after: str, draw: float) -> tuple[str, str] | None:
    """Write the letter or digit twice."""
    return (char + char, after) if char.isalnum() else None
