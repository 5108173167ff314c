"""The demo's own instruction corpus: thousands of short questions with checkable answers.

Training and test questions are about different facts (`draft.py`), and the same seed gives
the same bytes on every machine.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.seeds import example_rng
from lope_dist.demo.draft import FAMILIES, is_held_out

_FRUITLESS_DRAWS = 2000  # a family that brings nothing new for so long has run out


@dataclass(frozen=True)
class DemoExample:
    """One line of the corpus: Alpaca's columns and, for scoring, the choices."""

    instruction: str
    input: str
    output: str
    family: str
    choices: list[str]
    """All answers in an order that tells nothing."""
    answer: int
    """Index of ``output`` in ``choices``."""


def build_family(family: str, seed: int, count: int, *, held_out: bool) -> list[DemoExample]:
    """Draw ``count`` different questions of one family from its train or its test facts.

    Raises:
        LopeError: the family does not have that many different questions.
    """
    draw = FAMILIES[family]
    side = "test" if held_out else "train"
    examples: dict[tuple[str, str], DemoExample] = {}
    drawn: Counter[str] = Counter()
    last_new = 0
    for number in itertools.count():
        if len(examples) == count or number - last_new > _FRUITLESS_DRAWS:
            break
        rng = example_rng(seed, f"demo {family} {side}", 0, number)
        draft = draw(rng, lambda fact: is_held_out(family, fact) == held_out)
        assert is_held_out(family, draft.fact) == held_out, f"{family} ignores the split"
        answers = (draft.output, *draft.wrong)
        question = (draft.instruction, draft.input)
        # Equal shares of all answers, so that always giving the same one gains nothing.
        if question in examples or drawn[draft.output] >= -(-count // len(answers)):
            continue
        last_new = number
        drawn[draft.output] += 1
        choices = [answers[i] for i in rng.permutation(len(answers))]
        examples[question] = DemoExample(
            instruction=draft.instruction,
            input=draft.input,
            output=draft.output,
            family=family,
            choices=choices,
            answer=choices.index(draft.output),
        )
    if len(examples) < count:
        raise LopeError(
            f"Demo family '{family}' has only about {len(examples)} different {side} questions "
            f"and {count} were asked for; ask for fewer."
        )
    return list(examples.values())


def build_train(seed: int, num_train: int) -> list[DemoExample]:
    """Return ``num_train`` training examples, equal shares of all families, well mixed."""
    families = list(FAMILIES)
    share, rest = divmod(num_train, len(families))
    examples = [
        example
        for i, family in enumerate(families)
        for example in build_family(family, seed, share + (i < rest), held_out=False)
    ]
    order = example_rng(seed, "demo train order", 0, 0).permutation(len(examples))
    return [examples[i] for i in order]


def build_test(seed: int, num_per_family: int) -> list[DemoExample]:
    """Return ``num_per_family`` test examples of each family, family by family."""
    return [
        example
        for family in FAMILIES
        for example in build_family(family, seed, num_per_family, held_out=True)
    ]


def write_demo(
    out_dir: str | Path, seed: int, num_train: int, num_test_per_family: int
) -> tuple[Path, Path]:
    """Write ``train.jsonl`` and ``test.jsonl`` and return their paths.

    Raises:
        LopeError: more examples are asked for than the families have.
    """
    train, test = Path(out_dir) / "train.jsonl", Path(out_dir) / "test.jsonl"
    write_atomic(train, _lines(build_train(seed, num_train)))
    write_atomic(test, _lines(build_test(seed, num_test_per_family)))
    return train, test


def _lines(examples: list[DemoExample]) -> str:
    return "".join(json.dumps(asdict(example)) + "\n" for example in examples)
