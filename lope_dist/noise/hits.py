"""Which words of a batch of texts are hit, by what, and with which numbers: vectorized.

A word is hit by at most one operation. Each word has one hash, and the operations' rates are
neighbouring intervals that it may fall into. For operations on pairs the words of a text are
paired off from its first or second one on, by a coin; the hash of the first word of a pair
decides for both, and the words of a pair that is left alone are drawn as any other, at a rate
raised by what the pairs took from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lope_dist.noise.base import NOISE, PairOperation
from lope_dist.noise.draws import GOLDEN, Keys, as_uniform, scramble, threshold
from lope_dist.noise.words import WordTable


@dataclass(frozen=True)
class Hits:
    """H hits, in the order of the words."""

    words: NDArray[np.int64]
    """(H,) number of the word in the table; of a pair, of its first word."""
    texts: NDArray[np.int64]
    """(H,) number of its text."""
    operations: NDArray[np.int64]
    """(H,) index into ``names``."""
    where: NDArray[np.float64]
    """(H,) place in the word, uniform in [0, 1)."""
    draws: NDArray[np.float64]
    """(H,) for the operation, uniform in [0, 1)."""
    names: tuple[str, ...]


def unit_keys(keys: Keys, counts: NDArray[np.integer]) -> Keys:
    """Return one hash for each of ``counts[i]`` units of text i, counted from 0 in each text."""
    ends = np.cumsum(counts)
    first = (ends - counts).astype(np.uint64)
    total = int(ends[-1]) if len(ends) else 0
    hashes = np.arange(1, total + 1, dtype=np.uint64)
    hashes *= GOLDEN
    hashes += np.repeat(keys - first * GOLDEN, counts)
    return scramble(hashes)


def draw_numbers(hashes: Keys) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two uniform numbers for each hit unit's hash."""
    second = scramble(hashes + GOLDEN)
    return (second >> np.uint64(32)) / 2.0**32, (second & np.uint64(0xFFFFFFFF)) / 2.0**32


def draw_hits(table: WordTable, keys: Keys, rates: dict[str, float]) -> Hits:
    """Hit each word with operation k with probability ``rates[k]``; ``keys``: one for a text."""
    pairs = tuple(name for name in rates if isinstance(NOISE[name], PairOperation))
    singles = tuple(name for name in rates if name not in pairs)
    pair_rate, single_rate = sum(rates[n] for n in pairs), sum(rates[n] for n in singles)
    counts = np.diff(table.first_words)
    hashes = unit_keys(keys, counts)
    # No unpaired word makes a pair's probability exceed twice the rate.
    spared = 1 - 2 * pair_rate
    limit = max(2 * pair_rate + single_rate, single_rate / spared if spared > 0 else 1.0)
    words = np.flatnonzero(hashes < threshold(limit))
    texts = np.searchsorted(table.first_words, words, side="right") - 1
    u = as_uniform(hashes[words])
    operation = np.full(len(words), -1)
    if pairs:
        leaders = as_uniform(hashes[np.maximum(words - 1, 0)])
        of_pair, u = _draw_pairs(_Candidates(words, texts, u, leaders), table, keys, pair_rate)
        share = np.cumsum([rates[n] for n in pairs]) / pair_rate
        operation[of_pair] = np.minimum(np.searchsorted(share, u[of_pair], "right"), len(pairs) - 1)
        u[of_pair] = 2.0
    ends = np.cumsum([rates[n] for n in singles])
    of_single = (u >= 0) & (u < single_rate)
    if singles:
        chosen = np.minimum(np.searchsorted(ends, u[of_single], "right"), len(singles) - 1)
        operation[of_single] = len(pairs) + chosen
    is_hit = operation >= 0
    words = words[is_hit]
    where, draws = draw_numbers(hashes[words])
    return Hits(words, texts[is_hit], operation[is_hit], where, draws, pairs + singles)


@dataclass(frozen=True)
class _Candidates:
    """C words whose numbers are small enough that they may be hit."""

    words: NDArray[np.int64]
    texts: NDArray[np.int64]
    u: NDArray[np.float64]
    """(C,) their numbers, uniform over all words."""
    before: NDArray[np.float64]
    """(C,) the numbers of the words before them."""


def _draw_pairs(
    candidates: _Candidates, table: WordTable, keys: Keys, rate: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which words start a hit pair, and the numbers for the rest.

    The returned number of a hit pair is uniform in [0, 1), that of a word in another's pair
    is 2 (not to be hit), and those of the others are below x with probability x.
    """
    words, texts, u = candidates.words, candidates.texts, candidates.u
    first = table.first_words[texts]
    num_words = table.first_words[texts + 1] - first
    coin = np.where(num_words > 2, (keys[texts] & np.uint64(1)).astype(np.int64), 0)
    num_pairs = (num_words - coin) // 2
    # The share of all words comes out although an end may be left unpaired.
    probability = np.minimum(1.0, rate * num_words / np.maximum(2 * num_pairs, 1))
    offset = words - first - coin
    is_paired = (offset >= 0) & (offset < 2 * num_pairs)
    leads = is_paired & (offset % 2 == 0)
    follows = is_paired & (offset % 2 == 1)
    hit = leads & (u < probability)
    rest = np.where(leads, u - probability, u)
    rest = np.where(
        follows, np.where(candidates.before < probability, 2.0, u * (1 - probability)), rest
    )
    return hit, np.where(hit, u / np.maximum(probability, 1e-300), rest)
