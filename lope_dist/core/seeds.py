"""Counter-based randomness: a pure function of (seed, purpose, epoch, example).

Nothing here keeps a state, so what happens to example 17 of epoch 0 depends neither on
the other examples nor on ranks, workers, batches or restarts.
"""

from __future__ import annotations

import hashlib

import numpy as np

_MASK = (1 << 64) - 1


def derive_key(seed: int, purpose: str, *counters: int) -> int:
    """Return a 64-bit key for ``purpose`` (a short name, one for each use) and counters."""
    text = ":".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def example_rng(seed: int, purpose: str, epoch: int, example_id: int) -> np.random.Generator:
    """Return a fresh generator for one purpose, one epoch and one example."""
    return np.random.Generator(np.random.Philox(key=derive_key(seed, purpose, epoch, example_id)))


def token_keys(seed: int, purpose: str, epoch: int, example_id: int, length: int) -> np.ndarray:
    """Return one 32-bit key for each token of an example (splitmix64 over the position).

    Shapes: int32 ``(length,)``, the bits of a uniform uint32. A prefix of a longer
    example's keys equals the keys of the shorter one.
    """
    start = np.uint64(derive_key(seed, purpose, epoch, example_id) & _MASK)
    with np.errstate(over="ignore"):
        x = start + np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(32)).astype(np.uint32).view(np.int32)
