import pytest
from support.noise_ops import run, run_responses

from lope_dist.noise.base import NOISE
from lope_dist.noise.char_insert import NOISE_CHARACTERS
from lope_dist.noise.keyboard import NEIGHBOURS
from lope_dist.noise.words import is_protected

DRAWS = [i / 97 for i in range(97)]


def test_word_order_moves_a_word_by_one_place_and_loses_none():
    words = [f"w{i}" for i in range(101)]
    for seed in range(20):
        noisy = run([" ".join(words)], "word_order", 0.4, seed=seed).texts[0].split(" ")
        assert sorted(noisy) == sorted(words)
        assert max(abs(noisy.index(w) - i) for i, w in enumerate(words)) == 1
    results = set(run(["a b c"] * 200, "word_order", 0.6).texts)
    assert results == {"a b c", "b a c", "a c b"}


def test_char_insert_adds_one_character_on_either_side():
    added = {NOISE["char_insert"].apply("ä", "ö", draw) for draw in DRAWS}
    assert {new[0].strip("ä") for new in added} <= set(NOISE_CHARACTERS)
    assert {new[0].index("ä") for new in added} == {0, 1}
    assert not any(is_protected(character) for character in NOISE_CHARACTERS)


def test_char_delete_removes_one_and_never_a_whole_word():
    text = "abc a \U0001f469\u200d\U0001f467 xy"
    for noisy in run([text] * 50, "char_delete", 1.0).texts:
        assert [len(w) for w in noisy.split(" ")] == [2, 1, 3, 1]


@pytest.mark.parametrize(
    ("name", "char", "after", "possible"),
    [
        ("char_swap", "a", "b", {("b", "a")}),
        ("char_swap", "a", "", {None}),
        ("char_swap", "a", "a", {None}),
        ("char_double", "é", "b", {("éé", "b")}),
        ("char_double", "!", "b", {None}),
        ("keyboard", "q", "u", {(c, "u") for c in "12wa"}),
        ("keyboard", "Q", "u", {(c, "u") for c in "12WA"}),
        ("keyboard", "ß", "u", {None}),
        ("ocr", "r", "n", {("n", "n"), ("h", "n"), ("m", "")}),
        ("ocr", "B", "", {("8", "")}),
        ("ocr", "x", "y", {None}),
    ],
)
def test_what_a_character_can_become(name, char, after, possible):
    assert {NOISE[name].apply(char, after, draw) for draw in DRAWS} == possible


def test_keys_touch_each_other():
    letters = [key for key in NEIGHBOURS if key.islower() or key.isdigit()]
    assert all(a in NEIGHBOURS[b] for a in letters for b in NEIGHBOURS[a])
    assert set("sdrewq"[1:4]) <= set(NEIGHBOURS["e"]) | {"e"}
    assert "p" not in NEIGHBOURS["q"]


@pytest.mark.parametrize(
    ("name", "word", "possible"),
    [
        ("case_loss", "NASA's", {"nasa's"}),
        ("case_loss", "nasa", {None}),
        ("punctuation_loss", '"don\'t,"', {"dont"}),
        ("punctuation_loss", "--", {None}),
        ("punctuation_loss", "plain", {None}),
        ("homophone", '"Their,', {'"There,', "\"They're,"}),
        ("homophone", "TWO", {"TO", "TOO"}),
        ("homophone", "I", {"eye"}),
        ("homophone", "xyzzy", {None}),
        ("word_duplicate", "so", {"so so"}),
        ("word_drop", "so", {""}),
        ("word_replace", "so", {"first", "last"}),
    ],
)
def test_what_a_word_can_become(name, word, possible):
    words = ["first", word, "last", "<s>", word]
    assert {NOISE[name].apply(words, 1, draw) for draw in DRAWS} == possible


def test_dropped_words_take_their_space_and_leave_the_first_one():
    assert run(["a  b\n\nc d"], "word_drop", 1.0).texts == ["a"]
    assert "a b d" in run(["a b c d"] * 50, "word_drop", 0.3).texts


def test_truncated_answers_are_starts():
    text = "One two\nthree, four five."
    new = {run_responses([text], "truncate", seed=seed)[0] for seed in range(60)}
    assert new == {"One", "One two", "One two\nthree,", "One two\nthree, four"}
    assert set(run_responses(["Positive"], "truncate")[0]) <= set("Positive")


def test_made_up_answers_have_as_many_words_in_the_right_letters():
    text = "An answer of six plain words"
    garbage = run_responses([text] * 50, "garbage")
    assert all(len(new.split()) == 6 and new.isascii() for new in garbage.values())
    assert len(set(garbage.values())) == 50
    foreign = run_responses([text] * 50, "wrong_language")
    assert not any(c.isascii() and c.isalpha() for new in foreign.values() for c in new)
    back = run_responses(["Ответ из нескольких слов"] * 50, "wrong_language")
    assert not any("а" <= c <= "я" for new in back.values() for c in new)
