"""Clean and noisy words, aligned with the fewest and smallest changes."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.fit_classes import distance

GAP = 0.9
"""Cost of a word lost or added."""
SWAP = 0.8
"""Cost of two words in the other order."""
_RUN = 3
_SEARCH = 8
_BAND = 12
"""How far from the diagonal of the two texts the alignment may stray, in words."""

Step = tuple[tuple[int, ...], tuple[int, ...]]
"""Numbers of clean words and of the noisy ones that came of them."""


def align(clean: Sequence[str], noisy: Sequence[str]) -> list[Step]:
    """Return the changed places: (i,) -> (j,), (i,) -> (), () -> (j,), or (i, i+1) -> (j, j+1).

    Where the texts part, the nearest place is searched from which three words are equal again;
    what lies between is aligned by dynamic programming. A changed word costs by how much of it
    changed, a swap less than two changes.
    """
    steps: list[Step] = []
    i = j = 0
    while i < len(clean) or j < len(noisy):
        if i < len(clean) and j < len(noisy) and clean[i] == noisy[j]:
            i, j = i + 1, j + 1
            continue
        i_end, j_end = _next_equal(clean, noisy, i, j)
        for left, right in _steps(clean[i:i_end], noisy[j:j_end]):
            steps.append((tuple(k + i for k in left), tuple(k + j for k in right)))
        i, j = i_end, j_end
    return steps


def _next_equal(clean: Sequence[str], noisy: Sequence[str], i: int, j: int) -> tuple[int, int]:
    """Return the nearest places behind i and j from which both texts go on alike."""
    for total in range(1, 2 * _SEARCH + 1):
        for down in sorted(range(total + 1), key=lambda k: abs(2 * k - total)):
            at, other = i + down, j + total - down
            ahead = clean[at : at + _RUN]
            is_inside = at <= len(clean) and other <= len(noisy)
            if is_inside and ahead == noisy[other : other + _RUN]:  # both empty: both at the end
                return at, other
    return len(clean), len(noisy)


def _steps(a: Sequence[str], b: Sequence[str]) -> list[Step]:
    costs: dict[tuple[int, int], float] = {(0, 0): 0.0}
    moves: dict[tuple[int, int], tuple[int, int]] = {}
    for i in range(len(a) + 1):
        middle = i * len(b) // max(len(a), 1)
        low = max(0, min(middle, i) - _BAND)
        high = min(len(b), max(middle, i) + _BAND) if i < len(a) else len(b)
        for j in range(low, high + 1):
            if i == j == 0:
                continue
            options = []
            if i and j and (i - 1, j - 1) in costs:
                options.append((costs[i - 1, j - 1] + change_cost(a[i - 1], b[j - 1]), (1, 1)))
            if i and (i - 1, j) in costs:
                options.append((costs[i - 1, j] + GAP, (1, 0)))
            if j and (i, j - 1) in costs:
                options.append((costs[i, j - 1] + GAP, (0, 1)))
            if i > 1 and j > 1 and a[i - 2] == b[j - 1] and a[i - 1] == b[j - 2] != a[i - 2]:
                before = costs.get((i - 2, j - 2))
                if before is not None:
                    options.append((before + SWAP, (2, 2)))
            if options:
                costs[i, j], moves[i, j] = min(options)
    return _walk_back(a, b, moves)


def _walk_back(
    a: Sequence[str], b: Sequence[str], moves: dict[tuple[int, int], tuple[int, int]]
) -> list[Step]:
    steps: list[Step] = []
    i, j = len(a), len(b)
    while i or j:
        down, right = moves[i, j]
        i, j = i - down, j - right
        if (down, right) != (1, 1) or a[i] != b[j]:
            steps.append((tuple(range(i, i + down)), tuple(range(j, j + right))))
    return steps[::-1]


def change_cost(clean: str, noisy: str) -> float:
    """Return what it costs that a word became another: the less, the more they share."""
    if clean == noisy:
        return 0.0
    a, b = clean.lower(), noisy.lower()
    if a[0] != b[0] and a[-1] != b[-1]:
        return 1.0
    share = distance(a, b)
    return 0.3 + 0.7 * share if share <= 0.5 else 1.0
