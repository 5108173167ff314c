"""Keyboard-neighbour typo: the key beside the right one (QWERTY)."""

from __future__ import annotations

from lope_dist.noise.base import NOISE, CharacterOperation

_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHIFTS = (0.0, 0.5, 0.75, 1.25)
"""How far right of the first row each row starts, in keys."""


def _neighbours() -> dict[str, str]:
    """Return key -> the keys that touch it."""
    positions = {
        key: (row, _SHIFTS[row] + column)
        for row, keys in enumerate(_ROWS)
        for column, key in enumerate(keys)
    }
    touching = {}
    for key, (row, x) in positions.items():
        near = [
            other
            for other, (other_row, other_x) in positions.items()
            if other != key and abs(other_row - row) <= 1 and abs(other_x - x) <= 1
        ]
        touching[key] = "".join(near)
        if key.isalpha():
            touching[key.upper()] = "".join(near).upper()
    return touching


NEIGHBOURS = _neighbours()


@NOISE.register("keyboard")
@CharacterOperation
def keyboard(char: str, after: str, draw: float) -> tuple[str, str] | None:
    """Replace a letter or digit by a neighbour on the keyboard, in the same case."""
    near = NEIGHBOURS.get(char)
    return None if near is None else (near[int(draw * len(near))], after)
