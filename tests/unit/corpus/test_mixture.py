"""How often an epoch visits each example of several sources, and in which order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lope_dist.core.errors import LopeError
from lope_dist.core.seeds import derive_key
from lope_dist.corpus.feed.mixture import Mixture, permuted

parts = st.lists(
    st.tuples(st.integers(1, 40), st.floats(0.02, 4)).filter(lambda p: int(p[0] * p[1] + 0.5) > 0),
    min_size=1,
    max_size=4,
)


def epoch_of(mixture, epoch):
    return mixture.example_ids(epoch, np.arange(mixture.epoch_size)).tolist()


@given(parts=parts, seed=st.integers(0, 2**40), shuffle=st.booleans(), epochs=st.integers(1, 5))
def test_visits(parts, seed, shuffle, epochs):
    """Of an epoch: as the weights say. Of several: nobody is more than one visit ahead."""
    sizes, weights = zip(*parts, strict=True)
    mixture = Mixture(sizes, weights, seed, shuffle=shuffle)
    wanted = [int(w * n + 0.5) for n, w in parts]
    assert mixture.epoch_size == sum(wanted)
    total = Counter()
    for epoch in range(epochs):
        counts = Counter(epoch_of(mixture, epoch))
        assert set(counts) <= set(range(sum(sizes)))
        total += counts
        for first, size, weight, visits in zip(mixture.starts, sizes, weights, wanted, strict=True):
            own = [counts[i] for i in range(first, first + size)]
            assert sum(own) == visits
            assert {np.floor(weight), np.ceil(weight)} >= set(own)
    for first, size, visits in zip(mixture.starts, sizes, wanted, strict=True):
        own = [total[i] for i in range(first, first + size)]
        assert sum(own) == epochs * visits
        assert max(own) - min(own) <= 1


@given(parts=parts, seed=st.integers(0, 2**40), epoch=st.integers(0, 9), data=st.data())
def test_any_place_can_be_asked_alone(parts, seed, epoch, data):
    mixture = Mixture(*zip(*parts, strict=True), seed, shuffle=True)
    whole = epoch_of(mixture, epoch)
    place = data.draw(st.integers(0, mixture.epoch_size - 1))
    again = Mixture(*zip(*parts, strict=True), seed, shuffle=True)
    assert again.example_ids(epoch, np.array([place])).tolist() == [whole[place]]


@pytest.mark.parametrize("sizes", [(17,), (5, 12)])
def test_without_weights_it_is_the_one_shuffle_of_all(sizes):
    mixture = Mixture(sizes, [1] * len(sizes), 614, shuffle=True)
    for epoch in range(3):
        expected = permuted(np.arange(17), 17, derive_key(614, "order", epoch))
        assert epoch_of(mixture, epoch) == expected.tolist()


def test_half_of_a_source_and_then_the_other_half():
    mixture = Mixture((10, 40), (2, 0.5), 614, shuffle=True)
    halves = [{i for i in epoch_of(mixture, epoch) if i >= 10} for epoch in range(3)]
    assert [len(half) for half in halves] == [20, 20, 20]
    assert halves[0] | halves[1] == set(range(10, 50))
    assert halves[2] == halves[0]
    assert halves[0] not in (set(range(10, 30)), set(range(30, 50))), "drawn, not cut"
    other = Mixture((10, 40), (2, 0.5), 615, shuffle=True)
    assert {i for i in epoch_of(other, 0) if i >= 10} != halves[0]
    assert epoch_of(mixture, 0) != epoch_of(mixture, 2), "in another order"


def test_without_shuffle_all_is_in_the_order_of_the_files():
    mixture = Mixture((3, 4), (2, 0.5), 614, shuffle=False)
    assert epoch_of(mixture, 0) == [0, 1, 2, 0, 1, 2, 3, 4]
    assert epoch_of(mixture, 1) == [0, 1, 2, 0, 1, 2, 5, 6]


def test_a_weight_that_visits_nothing_is_refused():
    with pytest.raises(LopeError, match=r"data\.sources\.1\.weight = 0\.01 of 20 "):
        Mixture((5, 20), (1, 0.01), 614, shuffle=True)


def test_no_list_is_kept():
    mixture = Mixture((10**12, 10**12), (0.3, 1.7), 614, shuffle=True)
    ids = mixture.example_ids(3, np.arange(10**11, 10**11 + 1000))
    assert len(set(ids.tolist())) > 990
    assert mixture.epoch_size == 2 * 10**12
