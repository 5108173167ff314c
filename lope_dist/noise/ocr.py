"""OCR confusion: characters that look alike in print."""

from __future__ import annotations

from lope_dist.noise.base import NOISE, CharacterOperation

_ALIKE = (
    "0 O o", "1 l I i", "2 Z z", "5 S s", "8 B", "6 b", "9 g q", "c e o", "u v", "n h r", "f t",
    "C G", "D O", "E F", "P R", "U V", "V Y", "K X", "M N", ". ,", ": ;", "' `",
)  # fmt: skip
_MERGED = {"rn": "m", "cl": "d", "vv": "w", "nn": "m", "ri": "n", "li": "h"}
_SPLIT = {"m": ("rn", "nn"), "d": ("cl",), "w": ("vv",), "h": ("li",), "n": ("ri",)}


def _single() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = dict(_SPLIT)
    for group in _ALIKE:
        for char in group.split():
            others = tuple(other for other in group.split() if other != char)
            table[char] = table.get(char, ()) + others
    return table


CONFUSIONS = _single()
"""Character -> what it is read as."""


@NOISE.register("ocr")
@CharacterOperation
def ocr(char: str, after: str, draw: float) -> tuple[str, str] | None:
    """Read a character, or two as one, as what looks like it."""
    choices = CONFUSIONS.get(char, ())
    merged = _MERGED.get(char + after)
    chosen = int(draw * (len(choices) + (merged is not None)))
    if chosen < len(choices):
        return choices[chosen], after
    return None if merged is None else (merged, "")
