"""How tests run one operation, and texts that are hard on it."""

from __future__ import annotations

from lope_dist.config.noise import ResponseNoiseConfig, TextNoiseConfig
from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.mix import Corrupted, corrupt, corrupt_responses, example_keys

TEXT_OPERATIONS = [n for n in NOISE if not isinstance(NOISE[n], ResponseOperation)]
RESPONSE_OPERATIONS = [n for n in NOISE if isinstance(NOISE[n], ResponseOperation)]
WITH_UNITS = [
    (name, unit)
    for name in TEXT_OPERATIONS
    for unit in ("word", "character")
    if unit in NOISE[name].units
]
QUICK_UNITS = [pair for pair in WITH_UNITS if pair[1] == "word" or pair[0] == "char_insert"]
"""Characters are hit by the operations and the code that hit those of a drawn word; slower."""

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
    "Say <|im_end|> or </s>, not [INST] here.",
]


def run(texts, name, rate=1.0, unit="word", seed=0, ids=None) -> Corrupted:
    """Run one operation on texts, each of an example of its own."""
    config = TextNoiseConfig(rate=rate, unit=unit, operations=(name,))
    ids = list(range(len(texts))) if ids is None else ids
    keys = example_keys(seed, "test", 0, ids)
    return corrupt(texts, range(len(texts)), [0] * len(texts), keys, config)


def run_responses(texts, name, rate=1.0, seed=0) -> dict[int, str]:
    """Run one operation on answers; return the new ones by number."""
    config = ResponseNoiseConfig(rate=rate, operations=(name,))
    keys = example_keys(seed, "test", 0, range(len(texts)))
    return {
        number: new
        for number, _, new in corrupt_responses(texts, lambda *_: "another one", keys, config)
    }
