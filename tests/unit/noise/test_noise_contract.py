"""What every registered operation promises; a new operation is tested without an edit here."""

import re
import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from support.noise_ops import (
    AWKWARD,
    QUICK_UNITS,
    RESPONSE_OPERATIONS,
    TEXT_OPERATIONS,
    WITH_UNITS,
    run,
    run_responses,
)
from support.quick import quick

from lope_dist.noise import mix
from lope_dist.noise.base import NOISE
from lope_dist.noise.spaceless import is_spaceless, split_words
from lope_dist.noise.words import graphemes, is_protected, word_table

texts = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(max_size=60),
    st.text(alphabet="ab \n\u0301\u200d👩🇩🇪\u0600\u0e33\u1100\u1161<>", max_size=30),
)
rates = st.one_of(st.sampled_from([0.05, 0.5, 1.0]), st.floats(0, 1))
MARKED = "There, Our, Know: That, Two! Meet; Are, Right. By, The, Sea? "
"""Nearly each word can take each operation."""
PROTECTED = re.compile(r"\S*[<>\[\]]\S*")


def test_the_papers_operations_are_registered():
    assert {"word_order", "char_insert", "char_delete", "word_replace"} <= set(NOISE)


@pytest.mark.parametrize(("name", "unit"), WITH_UNITS)
@settings(max_examples=60, deadline=None)
@given(batch=st.lists(texts, max_size=4), rate=rates, seed=st.integers(0, 2**32))
def test_pure_counted_and_the_same_in_any_batch(name, unit, batch, rate, seed):
    copies = [str(text) for text in batch]
    result = run(batch, name, rate, unit, seed)
    assert batch == copies
    assert run(batch, name, rate, unit, seed) == result
    for number, text in enumerate(batch):  # alone, with its own key
        alone = run([text], name, rate, unit, seed, ids=[number])
        assert alone.texts == [result.texts[number]]
    changed = {i for i, (a, b) in enumerate(zip(batch, result.texts, strict=True)) if a != b}
    assert changed <= {text for text, _, _ in result.hits}
    assert all(bool(a.strip()) == bool(b.strip()) for a, b in zip(batch, result.texts, strict=True))
    identity = run(batch, name, 0.0, unit, seed)
    assert identity.hits == []
    assert all(a is b for a, b in zip(batch, identity.texts, strict=True))


@pytest.mark.parametrize(("name", "unit"), WITH_UNITS)
def test_the_size_of_what_is_worked_on_at_once_changes_nothing(name, unit, monkeypatch):
    batch = [*AWKWARD, *("some Words, of a text" for _ in range(20))] * 3
    owners = sorted(range(len(batch)), key=lambda i: i // 2)
    owners = [i // 2 for i in owners]
    places = [i % 2 for i in range(len(batch))]
    config = mix.TextNoiseConfig(rate=0.5, unit=unit, operations=(name,))
    keys = mix.example_keys(3, "test", 0, range(len(batch)))
    whole = mix.corrupt(batch, owners, places, keys, config)
    monkeypatch.setattr(mix, "_CHARACTERS_AT_ONCE", 30)
    in_parts = mix.corrupt(batch, owners, places, keys, config)
    assert in_parts.texts == whole.texts
    assert sorted(in_parts.hits) == sorted(whole.hits)


@pytest.mark.parametrize(("name", "unit"), WITH_UNITS)
@pytest.mark.parametrize("text", AWKWARD)
def test_graphemes_stay_whole(name, unit, text):
    cases = (text, text.lower(), text.upper())
    originals = {grapheme for case in cases for grapheme in graphemes(case)}
    bare = {p for g in originals for p in [g.strip()] if p and not unicodedata.combining(p[0])}
    allowed = sorted((originals | bare) - {""}, key=len, reverse=True)
    pattern = regex.compile("|".join(map(regex.escape, allowed)) or "(?!)")
    batch = run([text] * 30, name, 1.0, unit).texts
    for noisy in batch:
        # What is left once the original graphemes are taken out is a space or a noise
        # character: no half of a cluster.
        rest = pattern.sub("", noisy)
        assert all(c.isspace() or (c.isascii() and c.isprintable()) for c in rest), rest


@pytest.mark.parametrize(("name", "unit"), quick(WITH_UNITS, *QUICK_UNITS))
def test_words_with_brackets_are_neither_changed_nor_made(name, unit):
    batch = [
        "Say <|im_end|> or </s>, not [INST] here.",
        "a < b but c > d",
        "<s <|im_en </ [/INST unk> s> [PAD",
        "<s> <s>",
        "plain words. | and / bars \\ marks ( )",
    ] * 40
    for seed in range(5):
        for old, new in zip(batch, run(batch, name, 1.0, unit, seed).texts, strict=True):
            assert PROTECTED.findall(new) == PROTECTED.findall(old)
            assert new.count("|") == old.count("|") or name in (
                "word_duplicate",
                "word_replace",
                "word_drop",
                "punctuation_loss",
                "char_delete",
                "char_double",
            )
    assert run(batch, name, 1.0, unit).hits


@pytest.mark.parametrize("name", RESPONSE_OPERATIONS)
def test_answers(name):
    batch = [*AWKWARD, *(f"A clean answer of words, number {i}." for i in range(200))]
    new = run_responses(batch, name)
    assert run_responses(batch, name) == new
    assert run_responses(batch, name, rate=0.0) == {}
    assert all(text.strip() and text != batch[number] for number, text in new.items())
    assert all(batch[number].strip() for number in new)
    if name == "truncate":  # words in brackets stay whole, or go
        assert all(
            {*PROTECTED.findall(t)} <= {*PROTECTED.findall(batch[n])} for n, t in new.items()
        )
    assert len(new) > 190
    share = len(run_responses(["Some answer or other."] * 4000, name, rate=0.3)) / 4000
    assert share == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("name", "unit"), quick(WITH_UNITS, *QUICK_UNITS))
def test_huge_texts(name, unit):
    result = run(["Word, Other. " * 50_000], name, 0.05, unit)
    assert sum(n for _, _, n in result.hits) > 3000
    run(["x" * 200_000, "1" * 200_000], name, 0.05, unit)


@pytest.mark.parametrize(("name", "unit"), quick(WITH_UNITS, *QUICK_UNITS))
def test_rate_is_the_share_of_the_units(name, unit):
    text = MARKED
    num_units = len(text.split()) if unit == "word" else sum(map(len, text.split()))
    for rate in (0.05, 0.3):
        hits = run([text] * 3000, name, rate, unit).hits
        share = sum(n for _, _, n in hits) / (3000 * num_units)
        assert share == pytest.approx(rate, rel=0.06)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, min_size=1, max_size=3))
def test_the_table_cuts_no_grapheme_and_finds_all_words(batch):
    table = word_table(batch)
    ends = {0, *np.cumsum([len(g) for g in regex.findall(r"\X", table.joined)]).tolist()}
    assert set(table.starts.tolist()) | set(table.ends.tolist()) <= ends
    for number, text in enumerate(batch):
        start = int(table.text_starts[number])
        assert table.joined[start : start + len(text)] == text
        own = range(*table.first_words[number : number + 2].tolist())
        words = [table.word(word) for word in own]
        assert (
            "".join("".join(words).split()) == "".join(text.split())
            or "\u0301" in text
            or "\u200d" in text
        )
        if not regex.search(r"\p{GCB=Prepend}|\p{GCB=Extend}|\p{GCB=SpacingMark}|\u200d", text):
            assert words == split_words(text)
            assert words == text.split() or is_spaceless(text)
        assert table.protected >= {w for w in own if is_protected(table.word(w))}
        assert not {w for w in own if not is_protected(table.word(w))} & table.protected


def test_another_seed_gives_another_result():
    text = MARKED * 3
    for name in TEXT_OPERATIONS:
        results = {run([text], name, 0.5, seed=seed).texts[0] for seed in range(8)}
        assert len(results) == 8
