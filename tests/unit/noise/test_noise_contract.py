"""What every registered operation promises; a new operation is tested without an edit here."""

import re

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from lope_dist.noise.base import NOISE
from lope_dist.noise.words import graphemes, join_words, split_words

ALL = list(NOISE)
AWKWARD = [
    "",
    " ",
    "\n\n",
    "a",
    "a a a a a a",
    "\x00 a\x00b \x00\x00",
    "👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ok",
    "مرحبا بالعالم العربي ‏‎",
    "é à cafe\u0301 n\u0303o",
    " \u0301start \u0301mid \u200d x\u0600 y",
    "हिन्दी में शब्द हैं",
    "一段没有空格的中文",
    "tab\tand\u00a0hard\u2003space\r\nline \r\n\u0301mark",
]
texts = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(max_size=60),
    st.text(alphabet="ab \n\u0301\u200d👩🇩🇪\u0600\u0e33\u1100\u1161", max_size=30),
)
rates = st.one_of(st.sampled_from([0.05, 0.5, 1.0]), st.floats(0, 1))


@pytest.fixture(params=ALL)
def operation(request):
    return NOISE[request.param]


def test_the_papers_operations_are_registered():
    assert {"word_order", "char_insert", "char_delete", "word_replace"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=120, deadline=None)
@given(text=texts, rate=rates, seed=st.integers(0, 2**32))
def test_pure_deterministic_and_keeps_white_space(name, text, rate, seed):
    operation, copy = NOISE[name], str(text)
    first = operation(text, np.random.default_rng(seed), rate)
    assert operation(text, np.random.default_rng(seed), rate) == first
    assert text == copy
    _, gaps = split_words(text)
    noisy_words = first
    for gap in gaps:  # every gap is still there, in order
        at = noisy_words.find(gap)
        assert at >= 0
        noisy_words = noisy_words[at + len(gap) :]
    assert bool(first.strip()) == bool(text.strip())
    assert operation(text, np.random.default_rng(seed), 0.0) == text


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("text", AWKWARD)
def test_graphemes_stay_whole(name, text):
    originals = {part for word in split_words(text)[0] for part in graphemes(word)}
    allowed = sorted(originals, key=len, reverse=True)
    pattern = regex.compile("|".join(map(regex.escape, allowed)) or "(?!)")
    for seed in range(20):
        noisy = NOISE[name](text, np.random.default_rng(seed), 1.0)
        # What is left once the original graphemes are taken out is white space or a noise
        # character: no half of a cluster.
        rest = pattern.sub("", noisy)
        assert all(c.isspace() or (c.isascii() and c.isprintable()) for c in rest), rest


def test_huge_text(operation):
    text = "word " * 200_000
    noisy = operation(text, np.random.default_rng(0), 0.05)
    assert abs(len(noisy) - len(text)) <= 20_000
    assert operation("x" * 1_000_000, np.random.default_rng(0), 1.0)


def test_rate_is_the_share_of_words(operation):
    words = [f"word{i:05d}" for i in range(20_000)]
    for rate in (0.05, 0.3):
        noisy = operation(" ".join(words), np.random.default_rng(1), rate).split(" ")
        share = np.mean([a != b for a, b in zip(words, noisy, strict=True)])
        assert share == pytest.approx(rate, rel=0.08)


def test_another_seed_gives_another_result(operation):
    text = " ".join(f"word{i}" for i in range(50))
    results = {operation(text, np.random.default_rng(seed), 0.5) for seed in range(8)}
    assert len(results) == 8


@settings(max_examples=300, deadline=None)
@given(texts)
def test_split_and_join_are_inverse(text):
    words, gaps = split_words(text)
    assert join_words(words, gaps) == text
    assert len(gaps) == len(words) + 1
    assert all(words)
    assert all(gap and gap.isspace() for gap in gaps[1:-1])
    # No border between a word and a gap runs through a grapheme.
    borders = np.cumsum([len(p) for pair in zip(gaps, [*words, ""], strict=True) for p in pair])
    ends = {0, *np.cumsum([len(g) for g in regex.findall(r"\X", text)]).tolist()}
    assert set(borders.tolist()) <= ends


def test_ascii_split_is_the_one_of_re():
    assert split_words(" a\x1cb  c\n")[0] == re.findall(r"\S+", " a\x1cb  c\n")
