"""Swapped characters: two neighbouring letters typed in the wrong order."""

from __future__ import annotations

from lope_dist.noise.base import NOISE, CharacterOperation


@NOISE.register("char_swap")
@CharacterOperation
def char_swap(char: str, after: str, draw: float) -> tuple[str, str] | None:
    """Swap the character with the one after it in the word."""
    return (after, char) if after and after != char else None
