"""What a changed word looks like: a small set of classes that tell the operations apart.

The classes need not match the operations one to one: how often each operation gives each class
is found by simulation (`fit_solve`), so an operation added later is fitted without an edit here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from lope_dist.noise.homophone import HEARD
from lope_dist.noise.keyboard import NEIGHBOURS
from lope_dist.noise.ocr import CONFUSIONS
from lope_dist.noise.words import edge_marks, graphemes


def _residue(clean: str, noisy: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the graphemes of both words without their common start and end, and these two."""
    a, b = graphemes(clean), graphemes(noisy)
    start = _num_common(a, b)
    end = _num_common(a[start:][::-1], b[start:][::-1])
    return a[start : len(a) - end], b[start : len(b) - end], a[:start], a[len(a) - end :]


def distance(clean: str, noisy: str) -> float:
    """Return how many characters of two words are not common start or end, 0 to 1."""
    start = _num_common(clean, noisy)
    end = _num_common(clean[start:][::-1], noisy[start:][::-1])
    longest = max(len(clean), len(noisy))
    return (longest - start - end) / max(longest, 1)


def _num_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many items both begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


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
    a, b, start, end = _residue(clean, noisy)
    core, heard = edge_marks(clean)[1].lower(), edge_marks(noisy)[1].lower()
    prefix = "heard, " if heard in HEARD.get(core, ()) else ""
    if len(a) == 1 and not b:
        return f"{prefix}character lost"
    if not a and len(b) == 1:
        return prefix + _inserted(b[0], [*start[-1:], *end[:1]])
    if len(a) == len(b) == 1:
        near = b[0].lower() in NEIGHBOURS.get(a[0].lower(), "")
        alike = b[0] in CONFUSIONS.get(a[0], ())
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


def _inserted(char: str, beside: Sequence[str]) -> str:
    if char.isalnum() and char in beside:
        return "doubled"
    return "letter added" if char.isalnum() else "mark added"
