"""100,000 rows of awkward text through every operation, all in one go."""

import random

import pytest
from support.noise_ops import QUICK_UNITS, RESPONSE_OPERATIONS, WITH_UNITS, run, run_responses
from support.quick import quick

ROWS = 100_000
# Each cluster has a code point that no other one has, so that a split one shows in a count.
CLUSTERS = {
    "👩\u200d👧": "👧",
    "🇩🇪": "🇪",
    "👍🏽": "🏽",
    "e\u0301": "\u0301",
    "o\u0323\u0302": "\u0323",
    "कि": "\u093f",
    "กำ": "\u0e33",
    "ᄒ\u1161\u11ab": "\u11ab",
    "\u0600a": "\u0600",
    " \u0308": "\u0308",
}
PLAIN = [
    *"abcdefgABCRN m rn 0159.,;!'-",
    "a word ",
    "To ",
    "their ",
    "\n",
    "\t ",
    "\u00a0",
    "\u3000",
]
ODD = [
    "\x00",
    "م",
    "ر",
    "\u200f",
    "一",
    "段",
    "\x1b",
    "\ufeff",
    "\U0010ffff",
    "<s>",
    "</",
    "[INST]",
    " ",
]


def rows():
    rng = random.Random(614)
    units = PLAIN * 3 + ODD + list(CLUSTERS)
    made = ["".join(rng.choices(units, k=rng.randrange(12))) for _ in range(ROWS - 3)]
    return [*made, "", "word " * 20_000, "e\u0301" * 20_000]


@pytest.fixture(scope="module")
def fuzzed():
    return rows()


@pytest.mark.parametrize(("name", "unit"), quick(WITH_UNITS, *QUICK_UNITS))
def test_fuzzed_rows(fuzzed, name, unit):
    if unit == "character":  # the same operations and the same code for words; slower
        fuzzed = fuzzed[:20_000]
    result = run(fuzzed, name, 0.2, unit)
    hit = {text for text, _, _ in result.hits}
    assert len(hit) > 1000
    new = result.texts
    assert len(new) == len(fuzzed)
    assert all(new[i] is fuzzed[i] for i in range(len(fuzzed)) if i not in hit)
    assert all(new[i] != fuzzed[i] for i in hit) or name in ("word_order",)
    assert all(new[i].strip() for i in hit)
    whole = "\n".join(new)
    before = "\n".join(fuzzed)
    for cluster, own in CLUSTERS.items():
        assert whole.count(own) == whole.count(cluster), cluster
    for mark in "<>[]":
        assert whole.count(mark) == before.count(mark)


@pytest.mark.parametrize("name", RESPONSE_OPERATIONS)
def test_fuzzed_answers(fuzzed, name):
    new = run_responses(fuzzed, name, 0.1)
    assert len(new) > 3000
    assert all(text.strip() and text != fuzzed[i] for i, text in new.items())
    whole = "\n".join(new.values())
    assert all(whole.count(own) == whole.count(cluster) for cluster, own in CLUSTERS.items())
