"""What differs between noisy texts and their clean originals, counted by class."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from lope_dist.noise.fit_align import align
from lope_dist.noise.fit_classes import classify

MAX_WORDS = 400
"""Longer texts are compared up to here: alignment takes time."""


def count_changes(clean: Sequence[str], noisy: Sequence[str]) -> tuple[Counter[str], int]:
    """Return the classes of change in one row's texts, and how many clean words it has."""
    counts: Counter[str] = Counter()
    num_words = 0
    for clean_text, noisy_text in zip(clean, noisy, strict=True):
        old = clean_text.split()[:MAX_WORDS]
        num_words += len(old)
        if clean_text == noisy_text:
            continue
        new = noisy_text.split()
        new = new[: MAX_WORDS if len(clean_text.split()) > MAX_WORDS else None]
        known = frozenset(old)
        for left, right in align(old, new):
            counts[_class_of(old, new, left, right, known)] += max(len(left), 1)
    return counts, num_words


def _class_of(
    old: Sequence[str],
    new: Sequence[str],
    left: tuple[int, ...],
    right: tuple[int, ...],
    known: frozenset[str],
) -> str:
    if len(left) == 2:
        return "order"
    if not right:
        return "word lost"
    if left:
        return classify(old[left[0]], new[right[0]], known.__contains__)
    at = right[0]
    is_twice = new[at] in (*new[max(at - 1, 0) : at], *new[at + 1 : at + 2])
    return "word twice" if is_twice else "word added"


def answer_class(
    clean: str, noisy: str, all_answers: frozenset[str], vocabulary: frozenset[str]
) -> str | None:
    """Return the operation that made a whole answer wrong, or ``None`` for one that it is not.

    An answer that lost its second half or so is truncated; one that shares little with the
    clean one is another row's, or of unknown words, or of other letters.
    """
    old, new = clean.split(), noisy.split()
    if clean == noisy or not old:
        return None
    shared = sum((Counter(map(str.lower, old)) & Counter(map(str.lower, new))).values())
    if len(new) < len(old) and new and _is_start(old, new):
        return "truncate" if len(new) <= len(old) - max(2, 0.1 * len(old)) else None
    if noisy in all_answers:
        return "wrong_label"
    if shared > 0.3 * min(len(old), len(new)) or max(len(old), len(new)) < 3:
        return None
    if _script(clean) != _script(noisy):
        return "wrong_language"
    num_known = sum(word in vocabulary for word in new)
    return "wrong_label" if num_known > 0.5 * len(new) else "garbage"


def _is_start(old: Sequence[str], new: Sequence[str]) -> bool:
    """Tell whether ``new`` is about how ``old`` starts."""
    start = old[: len(new)]
    same = sum((Counter(start) & Counter(new)).values())
    return same >= 0.75 * len(new) and (old[-1] != new[-1] or len(new) < len(old) // 2)


def _script(text: str) -> str:
    names = Counter(
        unicodedata.name(char, "").partition(" ")[0] for char in text[:300] if char.isalpha()
    )
    return names.most_common(1)[0][0] if names else ""
