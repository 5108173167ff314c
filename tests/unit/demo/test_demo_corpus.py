"""The demo's corpus: reproducible, disjoint, balanced, and right by an independent checker."""

import json
import re
from collections import Counter, defaultdict

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.demo.corpus import build_family, build_test, build_train, write_demo
from lope_dist.demo.draft import FAMILIES, is_held_out
from lope_dist.demo.families.grammar import VERBS
from lope_dist.demo.families.messages import FEELINGS, TOPICS
from lope_dist.demo.families.words import CONTINENTS, GROUPS, UNITS

LISTS = {
    "word_group": GROUPS,
    "continent": CONTINENTS,
    "quantity": UNITS,
    "sentiment": FEELINGS,
    "topic": TOPICS,
}


@pytest.fixture(scope="module")
def train():
    return build_train(614, 3000)


@pytest.fixture(scope="module")
def held_out():
    return build_test(614, 60)


def question(example):
    return example.instruction, example.input


def by_family(examples):
    groups = defaultdict(list)
    for example in examples:
        groups[example.family].append(example)
    return groups


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    def write(name, seed):
        return [path.read_bytes() for path in write_demo(tmp_path / name, seed, 50, 5)]

    assert write("a", 614) == write("b", 614)
    for ours, theirs in zip(write("a", 614), write("c", 615), strict=True):
        assert ours != theirs
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["test.jsonl", "train.jsonl"]


def test_lines_have_alpaca_columns_and_choices(tmp_path):
    train_path, test_path = write_demo(tmp_path, 614, 25, 3)
    rows = [json.loads(line) for line in train_path.read_text().splitlines()]
    assert len(rows) == 25
    assert len(test_path.read_text().splitlines()) == 3 * len(list(FAMILIES))
    for row in rows:
        assert list(row) == ["instruction", "input", "output", "family", "choices", "answer"]
        assert row["instruction"]
        assert row["input"]
        assert row["choices"][row["answer"]] == row["output"]


def test_thousands_of_different_questions(train, held_out):
    assert len({question(e) for e in train}) == 3000
    assert len({question(e) for e in held_out}) == 60 * len(list(FAMILIES)) == len(held_out)
    assert {len(examples) for examples in by_family(train).values()} == {300}


def test_no_test_question_is_in_any_training_set(held_out):
    asked = {question(e) for e in held_out}
    for seed in (614, 1, 2):
        assert asked.isdisjoint(question(e) for e in build_train(seed, 2000))


@pytest.mark.parametrize("family", LISTS)
def test_no_test_fact_is_in_training(family, train, held_out):
    """Not even asked in another way: the words themselves are split."""
    facts = [fact for group in LISTS[family].values() for fact in group]

    def mentioned(examples):
        text = " | ".join(e.input for e in by_family(examples)[family])
        return {fact for fact in facts if re.search(rf"(?<![\w-]){re.escape(fact)}(?![\w-])", text)}

    assert mentioned(train).isdisjoint(mentioned(held_out))
    assert mentioned(train) | mentioned(held_out) <= set(facts)
    assert len(mentioned(held_out)) >= 8


@pytest.mark.parametrize("family", LISTS)
def test_word_lists_are_disjoint_and_both_sides_have_words(family):
    words = Counter(word for group in LISTS[family].values() for word in group)
    assert max(words.values()) == 1
    for group in LISTS[family].values():
        sides = Counter(is_held_out(family, word) for word in group)
        assert sides[True] >= 2
        assert sides[False] >= 5


def test_neither_the_answer_nor_its_place_can_be_guessed(train, held_out):
    for examples in (*by_family(train).values(), *by_family(held_out).values()):
        num_choices = len(examples[0].choices)
        fair = len(examples) / num_choices
        answers = Counter(e.output for e in examples)
        assert set(answers) == set(examples[0].choices)
        assert max(answers.values()) <= fair + 1
        places = Counter(e.answer for e in examples)
        assert len(places) == num_choices
        assert max(places.values()) < 2 * fair


def test_families_are_mixed(train):
    """No stretch of the training file is of one family: batches would be lopsided."""
    for start in range(0, 3000, 100):
        assert len({e.family for e in train[start : start + 100]}) >= 8


def test_a_family_that_runs_out_says_so():
    with pytest.raises(LopeError, match=r"continent.* 5000 "):
        build_family("continent", 614, 5000, held_out=True)


# An independent check of the answers: from the question's text alone, by other means.

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen""".split()  # noqa: SIM905
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_WORD_VALUES = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}


def value_of(words):
    total = 0
    for word in re.findall(r"[a-z]+", words):
        if word == "hundred":
            total *= 100
        elif word != "and":
            total += _WORD_VALUES[word]
    return total


def check_tense(text):
    if " will " in text or " going to " in text:
        return "future"
    if " was " in text:
        return "past"
    verb = text.split()[2]
    return "present" if verb.endswith("s") else "past"


def check_question(text):
    marks = {
        "place": r"^Where|^In which street",
        "time": r"^When|^At what hour",
        "person": r"^Who",
        "number": r"^How many",
        "reason": r"^Why|^For what purpose",
    }
    (answer,) = [kind for kind, mark in marks.items() if re.search(mark, text)]
    return answer


CHECKERS = {
    "magnitude": lambda text: "low" if value_of(text) < 500 else "high",
    "count": lambda text: str(len(re.split(r", | and ", text))),
    "tense": check_tense,
    "question": check_question,
    "manner": lambda text: "soft" if re.search(r"please|kindly|grateful|Thank", text) else "firm",
    "quantity": lambda text: (
        "length" if re.search(r"metres|inches|feet|yards|miles|furlongs|light-years", text)
        else "volume" if re.search(r"litres|gallons|pints|quarts|spoon|cup", text)
        else "mass" if re.search(r"grams|tonnes|pounds|kilos|carats|hundredweights", text)
        else "time"
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", CHECKERS)
def test_answers_are_right(family, train, held_out):
    for example in by_family(train)[family] + by_family(held_out)[family]:
        assert CHECKERS[family](example.input) == example.output, example


def test_numbers_are_spelt_as_they_are_read():
    from lope_dist.demo.families.numbers import number_in_words

    assert number_in_words(312) == "three hundred and twelve"
    assert [value_of(number_in_words(n)) for n in range(1000)] == list(range(1000))


def test_verb_forms_differ():
    for verb in VERBS:
        assert len(set(verb.split())) == 4
        assert verb.split()[1].endswith("s")
        assert not verb.split()[2].endswith("s")


def test_some_answers_known_by_heart():
    known = {
        ("continent", "Kenya"): "Africa", ("continent", "Peru"): "America",
        ("continent", "Nepal"): "Asia", ("continent", "Poland"): "Europe",
        ("word_group", "zebra"): "animal", ("word_group", "knee"): "body",
        ("word_group", "shovel"): "tool", ("word_group", "ferry"): "vehicle",
        ("word_group", "pasta"): "food",
    }  # fmt: skip
    asked = {}
    for family in ("continent", "word_group"):
        for side in (True, False):
            for example in build_family(family, 614, 90 if side else 250, held_out=side):
                asked[family, example.input] = example.output
    seen = set(known) & set(asked)
    assert len(seen) >= 6
    assert all(asked[key] == known[key] for key in seen)
