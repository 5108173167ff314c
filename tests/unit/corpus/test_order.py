import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lope_dist.corpus.feed.mixture import permuted


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_it_is_a_permutation(size, key):
    order = permuted(np.arange(size), size, key)
    assert np.array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 300_000])
def test_it_is_a_permutation_at_the_edges(size):
    assert np.array_equal(np.sort(permuted(np.arange(size), size, 5)), np.arange(size))


def test_any_part_can_be_asked_for():
    whole = permuted(np.arange(1000), 1000, 9)
    assert np.array_equal(
        permuted(np.array([[999, 3], [4, 0]]), 1000, 9), whole[[[999, 3], [4, 0]]]
    )
    huge = permuted(np.arange(50), 10**15, 9)
    assert len(set(huge.tolist())) == 50
    assert huge.max() < 10**15


def test_no_place_is_preferred():
    counts = np.zeros((6, 6), int)
    for key in range(500):
        counts[np.arange(6), permuted(np.arange(6), 6, key)] += 1
    assert np.abs(counts - 500 / 6).max() < 38  # 4.5 standard deviations


def test_all_orders_of_three_occur():
    orders = {tuple(permuted(np.arange(3), 3, key)) for key in range(200)}
    assert len(orders) == 6


def test_neighbours_are_torn_apart():
    order = permuted(np.arange(10_000), 10_000, 1)
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01
