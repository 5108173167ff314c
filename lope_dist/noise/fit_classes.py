"""What a changed word looks like: a small set of classes that tell the operations apart.

The classes need not match the operations one to one: how often each operation gives each class
is found by simulation (`fit_solve`), so an operation added later is fitted without an edit here.
"""

from __future__ import annotations

from collections.abc import Callable
from os.path import commonprefix

from lope_dist.noise.homophone import HEARD
from lope_dist.noise.keyboard import NEIGHBOURS
from lope_dist.noise.ocr import CONFUSIONS
from lope_dist.noise.words import edge_marks


def residue(clean: str, noisy: str) -> tuple[str, str, str]:
    """Return what is left of both words without their common start and end, and the start."""
    start = commonprefix([clean, noisy])  # noqa: RUF071 - characters are meant
    a, b = clean[len(start) :], noisy[len(start) :]
    end = len(commonprefix([a[::-1], b[::-1]]))  # noqa: RUF071
    return a[: len(a) - end], b[: len(b) - end], start


def distance(clean: str, noisy: str) -> float:
    """Return how much of two words is not common start or end, 0 to 1."""
    a, b, _ = residue(clean, noisy)
    return max(len(a), len(b)) / max(len(clean), len(noisy), 1)


def classify(clean: str, noisy: str, is_known: Callable[[str], bool]) -> str:
    """Return the class of a changed word.

    Args:
        clean: The word as it was.
        noisy: The word as it is; another one.
        is_known: Whether a word stands elsewhere in the clean text.
    """
    if noisy == clean.lower():
        return "lower case"
    if noisy == "".join(c for c in clean if c.isalnum()):
        return "marks lost"
    a, b, start = residue(clean, noisy)
    core, heard = edge_marks(clean)[1].lower(), edge_marks(noisy)[1].lower()
    prefix = "heard, " if heard in HEARD.get(core, ()) else ""
    if len(a) == 1 and not b:
        return f"{prefix}character lost"
    if not a and len(b) == 1:
        return prefix + _inserted(b, start, clean)
    if len(a) == len(b) == 1:
        near = b.lower() in NEIGHBOURS.get(a.lower(), "")
        alike = b in CONFUSIONS.get(a, ())
        return f"{prefix}changed{', near key' * near}{', looks alike' * alike}"
    if len(a) == 2 and b == a[::-1]:
        return "swapped"
    if (len(a), len(b)) in ((1, 2), (2, 1), (2, 0)) and not prefix:
        return f"{len(a)} characters for {len(b)}"
    if prefix:
        return "heard"
    if is_known(noisy):
        return "another word"
    return "much changed" if distance(clean, noisy) <= 0.5 else "unknown word"


def _inserted(char: str, start: str, clean: str) -> str:
    if char.isalnum() and char in (start[-1:], clean[len(start) : len(start) + 1]):
        return "doubled"
    return "letter added" if char.isalnum() else "mark added"
