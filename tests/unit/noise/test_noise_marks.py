"""Which words of a text noise changed, told while it changes them."""

import pytest

from lope_dist.config.noise import TextNoiseConfig
from lope_dist.noise.marks import marks_after, marks_of_answer
from lope_dist.noise.mix import corrupt, example_keys

TEXT = "one two three four"


def marked(text, marks):
    """Return the marked words."""
    assert len(marks) == len(text)
    words, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        own = set(marks[at : at + len(word)])
        assert len(own) == 1, "a word is marked as a whole"
        words += [word] if own == {1} else []
        at += len(word)
    return words


@pytest.mark.parametrize(
    ("changes", "new", "expected"),
    [
        ([(4, 6, "wt")], "one wto three four", ["wto"]),
        ([(6, 7, "")], "one tw three four", ["tw"]),  # the end of a word
        ([(4, 5, "")], "one wo three four", ["wo"]),
        ([(3, 7, "")], "one three four", ["three"]),  # a whole word: the next one
        ([(13, 18, "")], "one two three", ["three"]),  # the last word: the one before
        ([(4, 7, "three"), (8, 13, "two")], "one three two four", ["three", "two"]),
        ([(0, 3, "one one")], "one one two three four", ["one", "one"]),
        ([(4, 7, "two"), (7, 7, "")], TEXT, ["two"]),
        ([], TEXT, []),
    ],
)
def test_a_change_marks_its_words(changes, new, expected):
    assert marked(new, marks_after(TEXT, bytearray(len(TEXT)), changes, new)) == expected


@pytest.mark.parametrize(
    ("text", "change", "expected"),
    [
        ("a one two </think> b", (5, 9, ""), ["one"]),  # no noise is on </think>
        ("a <think> one </think> b", (9, 13, ""), []),
        ("<think> one two </think>", (7, 11, ""), ["two"]),
    ],
)
def test_a_word_that_noise_leaves_alone_is_not_marked(text, change, expected):
    new = text[: change[0]] + text[change[1] :]
    assert marked(new, marks_after(text, bytearray(len(text)), [change], new)) == expected


def test_earlier_marks_move_with_their_words():
    before = bytearray(len(TEXT))
    before[8:13] = b"\1" * 5
    new = "on two three four"
    assert marked(new, marks_after(TEXT, before, [(2, 3, "")], new)) == ["on", "three"]
    swapped = "one three two four"
    changes = [(4, 7, "three"), (8, 13, "two")]
    assert marked(swapped, marks_after(TEXT, before, changes, swapped)) == ["three", "two"]


def test_an_answer_is_marked_as_a_whole_and_a_cut_one_at_its_end():
    clean = bytearray(len(TEXT))
    assert marked("one two", marks_of_answer(TEXT, clean, "one two")) == ["two"]
    assert marks_of_answer(TEXT, clean, "other words") == b"\1" * 11
    assert marked("", marks_of_answer(TEXT, clean, "")) == []


def words_with_noise(operation, unit="word", **settings):
    """Return words of many texts after noise, and which are marked, text by text."""
    texts = [" ".join(f"word{i}x{j}y" for j in range(20)) for i in range(50)]
    config = TextNoiseConfig(rate=0.1, unit=unit, operations=(operation,), **settings)
    keys = example_keys(0, "test", 0, range(50))
    clean = [bytearray(len(text)) for text in texts]
    result = corrupt(texts, range(50), [0] * 50, keys, config, clean)
    assert result.texts == corrupt(texts, range(50), [0] * 50, keys, config).texts
    for old, new, marks in zip(texts, result.texts, result.marks, strict=True):
        yield old.split(), new.split(), marked(new, marks)


@pytest.mark.parametrize(
    ("operation", "unit"),
    [
        ("char_insert", "word"),
        ("char_delete", "word"),
        ("word_order", "word"),
        ("word_replace", "word"),
        ("char_delete", "character"),
        ("char_insert", "character"),
    ],
)
def test_marked_are_the_words_that_differ(operation, unit):
    """No operation here changes how many words there are, so that places can be compared."""
    count = 0
    for old, new, own in words_with_noise(operation, unit):
        assert own == [word for word, before in zip(new, old, strict=True) if word != before]
        count += len(own)
    assert count > 60


def test_the_word_behind_a_dropped_one_is_marked():
    count = 0
    for old, new, own in words_with_noise("word_drop"):
        gone = [i for i, word in enumerate(old) if word not in new]
        behind = {next((w for w in old[i:] if w in new), new[-1]) for i in gone}
        assert own == [word for word in new if word in behind]
        count += len(own)
    assert count > 60


def test_texts_without_noise_have_no_marks():
    config = TextNoiseConfig(rate=0.0)
    keys = example_keys(0, "test", 0, [0])
    assert corrupt([TEXT], [0], [0], keys, config, [bytearray(18)]).marks == [bytearray(18)]
    assert corrupt([TEXT], [0], [0], keys, TextNoiseConfig(rate=0.5)).marks is None
