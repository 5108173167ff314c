"""What differs between noisy texts and their clean originals, counted by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from lope_dist.noise.fit_align import Step, align
from lope_dist.noise.fit_classes import classify
from lope_dist.noise.fit_cut import cut
from lope_dist.noise.garbage import is_garbage
from lope_dist.noise.spaceless import is_spaceless, split_words
from lope_dist.noise.syllables import script_of

_words_of = lru_cache(1 << 14)(split_words)
"""The clean texts are looked at once for each operation."""
MAX_WORDS = 400
"""Longer texts are compared up to here: alignment takes time."""


def count_changes(clean: Sequence[str], noisy: Sequence[str]) -> tuple[Counter[str], int]:
    """Return the classes of change in one row's texts, and how many clean words it has."""
    counts: Counter[str] = Counter()
    num_words = 0
    for clean_text, noisy_text in zip(clean, noisy, strict=True):
        old = _words_of(clean_text)
        num_words += min(len(old), MAX_WORDS)
        if clean_text == noisy_text:
            continue
        new, steps = _aligned(old, clean_text, noisy_text)
        clean_words = frozenset(old)
        for left, right in steps:
            counts[_class_of(old, new, left, right, clean_words)] += max(len(left), 1)
    return counts, num_words


def _aligned(
    old: Sequence[str], clean_text: str, noisy_text: str
) -> tuple[Sequence[str], list[Step]]:
    """Return the noisy words, and where they differ from the clean ones."""
    is_long = len(old) > MAX_WORDS
    old = old[:MAX_WORDS]
    if is_spaceless(clean_text):
        noisy = "".join(noisy_text.split())
        return cut(old, noisy[: sum(map(len, old))] if is_long else noisy)
    new = noisy_text.split()[: MAX_WORDS if is_long else None]
    return new, align(old, new)


def _class_of(
    old: Sequence[str],
    new: Sequence[str],
    left: tuple[int, ...],
    right: tuple[int, ...],
    clean_words: frozenset[str],
) -> str:
    if len(left) == 2:
        return "order"
    if not right:
        return "word lost"
    if left:
        return classify(old[left[0]], new[right[0]], clean_words.__contains__)
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
    old, new = split_words(clean), split_words(noisy)
    if clean == noisy or not old:
        return None
    shared = sum((Counter(map(str.lower, old)) & Counter(map(str.lower, new))).values())
    if len(new) < len(old) and new and _is_start(old, new):
        return "truncate" if len(new) <= len(old) - max(2, 0.1 * len(old)) else None
    if noisy in all_answers:
        return "wrong_label"
    if shared > 0.3 * min(len(old), len(new)) or max(len(old), len(new)) < 3:
        return None
    if script_of(clean[:300]) != script_of(noisy[:300]):
        return "garbage" if is_garbage(noisy) else "wrong_language"
    num_known = sum(word in vocabulary for word in new)
    return "wrong_label" if num_known > 0.5 * len(new) else "garbage"


def _is_start(old: Sequence[str], new: Sequence[str]) -> bool:
    """Tell whether ``new`` is about how ``old`` starts."""
    start = old[: len(new)]
    same = sum((Counter(start) & Counter(new)).values())
    return same >= 0.75 * len(new) and (old[-1] != new[-1] or len(new) < len(old) // 2)
