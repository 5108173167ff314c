"""Character deletion (CD): a character is lost."""

from __future__ import annotations

from lope_dist.noise.base import NOISE, CharacterOperation


@NOISE.register("char_delete")
@CharacterOperation
def char_delete(char: str, after: str, draw: float) -> tuple[str, str]:
    """Remove the character.

    Paper: section 3.2.
    """
    return "", after
