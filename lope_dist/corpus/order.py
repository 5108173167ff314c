"""A shuffle that keeps no list: position -> index by a small cipher.

A Feistel network permutes ``[0, 4**h)``; positions that land outside ``[0, size)`` are sent
through it again until they land inside (cycle walking), which makes it a permutation of
``[0, size)``. Any position can be asked for at any time, so a resume is an index.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6


def permuted(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return where ``key``'s permutation of ``[0, size)`` sends each position.

    Shapes: int64 of any shape, in and out.
    """
    assert size > 0
    values = np.asarray(positions, np.int64).astype(np.uint64)
    assert values.size == 0 or int(values.max()) < size
    # At least 3 bits a half: on smaller domains a Feistel network reaches few permutations.
    half = max(3, -(-(size - 1).bit_length() // 2))
    round_keys = _mix(np.uint64(key) ^ np.arange(1, _ROUNDS + 1, dtype=np.uint64))
    values = _feistel(values, half, round_keys)
    while (outside := values >= np.uint64(size)).any():
        values[outside] = _feistel(values[outside], half, round_keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: int, round_keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << shift) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Return splitmix64's finalizer of each value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)  # wraps around
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
