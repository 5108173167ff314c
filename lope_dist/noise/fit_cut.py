"""Clean words and a noisy text that has no spaces, aligned: the text is cut as the words ask.

Finding words in the noisy text would not do: a changed character changes what a dictionary finds
around it. So the text is compared character by character, and the clean words say where it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lope_dist.noise.fit_align import GAP, SWAP, Step, change_cost

_RUN = 4
"""Words that must be equal for both texts to go on alike."""
_SEARCH = 8
_WINDOW = 48
"""How many words and characters ahead that is looked for."""
_LONGEST = 12
"""Characters of a piece that is no clean word."""
_TWICE = 0.8
"""Cost of a piece that repeats a word beside it: less than that of any other piece too many."""


def cut(clean: Sequence[str], noisy: str) -> tuple[list[str], list[Step]]:
    """Return a noisy text in pieces, and which of them are not as the clean words are.

    Args:
        clean: The words, without white space.
        noisy: What became of them, without white space.

    Returns:
        The pieces, and the changes as `fit_align.align` tells them.
    """
    pieces: list[str] = []
    steps: list[Step] = []
    i = j = 0
    while i < len(clean) or j < len(noisy):
        if i < len(clean) and noisy.startswith(clean[i], j):
            pieces.append(clean[i])
            j += len(clean[i])
            i += 1
            continue
        i_end, j_end = _next_equal(clean, noisy, i, j)
        for left, new in _steps(clean, i, i_end, noisy[j:j_end]):
            if [clean[number] for number in left] != new:
                steps.append((left, tuple(range(len(pieces), len(pieces) + len(new)))))
            pieces += new
        i, j = i_end, j_end
    return pieces, steps


def _next_equal(clean: Sequence[str], noisy: str, i: int, j: int) -> tuple[int, int]:
    """Return the nearest places behind i and j from which both go on alike, or a part of both."""
    part = min(1.0, _SEARCH / max(len(clean) - i, 1))
    best, nearest = 10**9, (min(i + _SEARCH, len(clean)), j + math.ceil(part * (len(noisy) - j)))
    skipped = 0
    for down in range(min(_SEARCH, len(clean) - i) + 1):
        ahead = "".join(clean[i + down : i + down + _RUN])
        if i + down + _RUN < len(clean):
            at = noisy.find(ahead, j, j + _WINDOW + len(ahead))
        else:  # both must end here
            at = len(noisy) - len(ahead)
            at = at if at >= j and noisy.endswith(ahead) else -1
        if at >= 0 and (cost := max(skipped, at - j)) < best:
            best, nearest = cost, (i + down, at)
        skipped += len(clean[i + down]) if i + down < len(clean) else 0
    return nearest


def _steps(
    clean: Sequence[str], first: int, end: int, noisy: str
) -> list[tuple[tuple[int, ...], list[str]]]:
    """Return words and their pieces, where ``clean[first:end]`` became ``noisy``."""
    numbers = range(first, end)
    if not numbers:
        return [((), [noisy])]
    if not noisy:
        return [((number,), []) for number in numbers]
    return [((first,), [noisy])] if len(numbers) == 1 else _walk(clean, first, end, noisy)


def _walk(
    clean: Sequence[str], first: int, end: int, noisy: str
) -> list[tuple[tuple[int, ...], list[str]]]:
    words, size = clean[first:end], len(noisy)
    # costs[i][j]: the cheapest way to explain noisy[j:] by words[i:], and its first move.
    costs = [[(0.0, 0, 0)] * (size + 1) for _ in range(len(words) + 1)]
    for i in range(len(words), -1, -1):
        before = clean[first + i - 1] if first + i else ""
        for j in range(size, -1, -1):
            if i == len(words) and j == size:
                continue
            options = []
            word = words[i] if i < len(words) else ""
            if word:
                options.append((GAP + costs[i + 1][j][0], 1, 0))
                if noisy.startswith(word, j):
                    options.append((costs[i + 1][j + len(word)][0], 1, len(word)))
                if i + 1 < len(words) and noisy.startswith(words[i + 1] + word, j):
                    k = len(words[i + 1]) + len(word)
                    options.append((SWAP + costs[i + 2][j + k][0], 2, k))
            for k in range(1, min(_LONGEST, size - j) + 1):
                piece = noisy[j : j + k]
                added = _TWICE if piece in (before, word) else GAP
                options.append((added + costs[i][j + k][0], 0, k))
                if word and piece != word:
                    options.append((change_cost(word, piece) + costs[i + 1][j + k][0], 1, k))
            costs[i][j] = min(options)
    steps: list[tuple[tuple[int, ...], list[str]]] = []
    i = j = 0
    while i < len(words) or j < size:
        _, down, right = costs[i][j]
        piece, numbers = noisy[j : j + right], tuple(range(first + i, first + i + down))
        swapped = [words[i + 1], words[i]] if down == 2 else []
        steps.append((numbers, swapped or ([piece] if piece else [])))
        i, j = i + down, j + right
    return steps
