import numpy as np
import pytest

from lope_dist.noise.char_delete import char_delete
from lope_dist.noise.char_insert import NOISE_CHARACTERS, char_insert
from lope_dist.noise.word_order import word_order
from lope_dist.noise.word_replace import word_replace


def rng(seed=0):
    return np.random.default_rng(seed)


def test_word_order_moves_a_word_by_one_place_and_loses_none():
    words = [f"w{i}" for i in range(101)]
    for seed in range(20):
        noisy = word_order(" ".join(words), rng(seed), 0.4).split(" ")
        assert sorted(noisy) == sorted(words)
        assert max(abs(noisy.index(w) - i) for i, w in enumerate(words)) == 1


@pytest.mark.parametrize("num_words", [2, 3, 4, 5, 10])
def test_word_order_rate_holds_in_short_texts(num_words):
    words = [f"w{i}" for i in range(num_words)]
    moved = [
        a != b
        for seed in range(3000)
        for a, b in zip(words, word_order(" ".join(words), rng(seed), 0.3).split(" "), strict=True)
    ]
    assert np.mean(moved) == pytest.approx(0.3, abs=0.025)


def test_word_order_can_swap_any_two_neighbours():
    results = {word_order("a b c", rng(seed), 0.6) for seed in range(100)}
    assert results == {"a b c", "b a c", "a c b"}


def test_char_insert_adds_one_noise_character_to_each_hit_word():
    for seed in range(20):
        for noisy in char_insert("ÄÖ ÜÜÜ", rng(seed), 1.0).split(" "):
            added = [c for c in noisy if c in NOISE_CHARACTERS]
            assert len(added) == 1
    places = {char_insert("ÄÖ", rng(seed), 1.0).find("Ö") for seed in range(50)}
    assert places == {1, 2}


def test_char_delete_removes_one_and_never_a_whole_word():
    for seed in range(20):
        noisy = char_delete("abc a \U0001f469\u200d\U0001f467 xy", rng(seed), 1.0).split(" ")
        assert [len(noisy[0]), len(noisy[3])] == [2, 1]
        assert noisy[1] == "a"
        assert noisy[2] == "\U0001f469\u200d\U0001f467"


def test_word_replace_takes_another_word_of_the_text():
    for seed in range(20):
        noisy = word_replace("one two two three", rng(seed), 1.0).split(" ")
        assert set(noisy) <= {"one", "two", "three"}
        assert all(a != b for a, b in zip(noisy, ["one", "two", "two", "three"], strict=True))


def test_word_replace_shuffles_the_letters_of_a_text_of_one_word():
    results = {word_replace("abcdef", rng(seed), 1.0) for seed in range(20)}
    assert {"".join(sorted(r)) for r in results} == {"abcdef"}
    assert len(results) > 10
