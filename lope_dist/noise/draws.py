"""Random numbers as hashes of keys: vectorized, without a state (splitmix64).

A key is made of (seed, purpose, epoch) by `core.seeds.derive_key`; the keys of an example, a
text in it and a unit in that follow from it one after the other, so that what happens to a
word depends on nothing but where it stands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def scramble(x: Keys) -> Keys:
    """Return the finalizer of splitmix64 of ``x``, in place."""
    x ^= x >> np.uint64(30)
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x


def child_keys(keys: Keys, counters: NDArray[np.integer] | int) -> Keys:
    """Return ``keys[i]``'s key number ``counters[i]``; both broadcast."""
    steps = np.asarray(counters, dtype=np.int64).astype(np.uint64) + np.uint64(1)
    return scramble(keys + np.atleast_1d(steps) * GOLDEN)


def uniforms(key: int, count: int) -> list[float]:
    """Return ``count`` numbers, uniform in [0, 1), that follow from a key."""
    return as_uniform(child_keys(np.array([key], np.uint64), np.arange(count))).tolist()


def as_uniform(keys: Keys) -> NDArray[np.float64]:
    """Return the upper 53 bits as numbers in [0, 1)."""
    return (keys >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def threshold(probability: float) -> np.uint64:
    """Return what a key must be below with this probability."""
    return np.uint64(min(int(probability * (1 << 64)), (1 << 64) - 1))
