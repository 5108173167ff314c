import numpy as np

from lope_dist.core.seeds import derive_key, example_rng, token_keys


def test_same_counters_same_numbers_and_every_counter_matters() -> None:
    draws = [
        tuple(example_rng(*args).integers(0, 1 << 60, 4))
        for args in [(1, "a", 0, 5), (2, "a", 0, 5), (1, "b", 0, 5), (1, "a", 1, 5), (1, "a", 0, 6)]
    ]
    assert len(set(draws)) == 5
    assert draws[0] == tuple(example_rng(1, "a", 0, 5).integers(0, 1 << 60, 4))


def test_keys_are_frozen() -> None:
    """A change here changes every corpus and every run ever made."""
    assert derive_key(614, "order", 0) == 0xD9717F54139E22D1
    assert token_keys(614, "token-noise", 0, 17, 3).tolist() == [-966748018, 1349840968, 1756679860]


def test_token_keys_of_a_prefix_are_the_prefix() -> None:
    long, short = token_keys(1, "t", 0, 3, 100), token_keys(1, "t", 0, 3, 10)
    assert np.array_equal(long[:10], short)
    assert len(set(long.tolist())) == 100
