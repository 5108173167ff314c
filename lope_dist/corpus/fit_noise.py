"""The noise of a data set, estimated: beside a clean copy of it, or against other clean text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.records import open_source
from lope_dist.corpus.turns import Example
from lope_dist.noise.fit_pairs import answer_class, count_changes
from lope_dist.noise.fit_solve import Estimate, Row, fit_rates
from lope_dist.noise.fit_unpaired import Reference

MIN_ROWS = 20


@dataclass(frozen=True)
class NoiseFit:
    """The mix that a data set shows."""

    rows: int
    words: int
    is_paired: bool
    operations: dict[str, Estimate]
    """Operation -> share of the words that it hits."""
    responses: dict[str, Estimate]
    """Operation on whole answers -> share of the examples; only from pairs."""

    def as_config(self) -> dict[str, Any]:
        """Return the `noise.text` section."""
        text: dict[str, Any] = {
            "rate": round(sum(e.rate for e in self.operations.values()), 5),
            "unit": "word",
        }
        if self.operations:
            text["operations"] = {n: round(e.rate, 5) for n, e in self.operations.items()}
        if self.responses:
            text["responses"] = {
                "rate": round(sum(e.rate for e in self.responses.values()), 5),
                "operations": {n: round(e.rate, 5) for n, e in self.responses.items()},
            }
        return text

    def as_yaml(self, section: str) -> str:
        """Return a config layer with the section, and how good the estimates are as comments."""
        how = (
            "aligned with a clean copy; rates are known to some 10 % of themselves."
            if self.is_paired
            else "compared with other clean text, without pairs: a rough estimate. Words\n"
            "# that were moved, replaced by known ones or dropped hardly show; see docs/noise.md."
        )
        lines = [
            f"# Noise fitted to {self.rows:,} rows ({self.words:,} words), {how}",
            "# Rates with 95 % intervals; weights of a mix need not sum to its rate.",
        ]
        for names, unit in ((self.operations, "words"), (self.responses, "answers")):
            for name, e in names.items():
                lines.append(
                    f"#   {name}: {e.rate:.4f} of the {unit} ({e.low:.4f} to {e.high:.4f})"
                )
        tree = {"noise": {section: self.as_config()}}
        return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False)

    def as_json(self) -> dict[str, Any]:
        """Return everything, plainly."""
        return asdict(self)


def fit_paired(noisy_path: Path, clean_path: Path, seed: int) -> NoiseFit:
    """Fit from two files of the same rows in the same order.

    Raises:
        LopeError: files of different length or layout, or too few rows.
    """
    noisy, clean = _examples(noisy_path), _examples(clean_path)
    if len(noisy) != len(clean):
        raise LopeError(
            f"{noisy_path} has {len(noisy)} rows and {clean_path} {len(clean)}; pairs are taken "
            "row by row, so remove what has no partner, or give the clean file as --reference."
        )
    for a, b in zip(noisy, clean, strict=True):
        if [turn.role for turn in a.turns] != [turn.role for turn in b.turns]:
            raise LopeError(
                f"Row {a.id + 1} of {noisy_path} and {clean_path} have other turns; pairs are "
                "taken row by row."
            )
    wrong = _wrong_answers(noisy, clean)
    rows = [_row(example, skip=i in wrong) for i, example in enumerate(clean)]
    noisy_rows = [
        _texts_beside(a, b, skip=i in wrong)
        for i, (a, b) in enumerate(zip(noisy, clean, strict=True))
    ]
    operations = fit_rates(
        noisy_rows, rows, lambda number, row: count_changes(rows[number], row), seed=seed
    )
    counts = Counter(wrong.values())
    responses = {name: _share(counts[name], len(clean)) for name in sorted(counts)}
    return NoiseFit(len(rows), _num_words(rows), True, operations, responses)


def fit_unpaired(noisy_path: Path, reference_path: Path, seed: int) -> NoiseFit:
    """Fit from noisy rows and other, clean ones of the same kind of text.

    Half of the reference makes the vocabulary; the other says what clean text looks like to it.

    Raises:
        LopeError: too few rows.
    """
    noisy = [_row(example) for example in _examples(noisy_path)]
    reference = [_row(example) for example in _examples(reference_path)]
    known = Reference(text for row in reference[0::2] for text in row)
    operations = fit_rates(noisy, reference[1::2], lambda _, row: known.count(row), seed=seed)
    return NoiseFit(len(noisy), _num_words(noisy), False, operations, {})


def _examples(path: Path) -> list[Example]:
    source = open_source(DataConfig(path=str(path), allow_empty_response=True))
    if len(source) < MIN_ROWS:
        raise LopeError(f"{path} has {len(source)} rows; a fit needs {MIN_ROWS}, better 2,000.")
    return [source[index] for index in range(len(source))]


def _row(example: Example, skip: bool = False) -> Row:
    """Return the texts that noise may hit, ``skip``: without the last answer."""
    turns = [turn for turn in example.turns if turn.role != "system"]
    texts = [text for turn in turns for text in (turn.text, turn.context) if text.strip()]
    return tuple(texts[:-1] if skip else texts)


def _texts_beside(noisy: Example, clean: Example, skip: bool) -> Row:
    """Return the noisy texts where the clean ones are not empty."""
    texts = [
        other
        for turn, beside in zip(clean.turns, noisy.turns, strict=True)
        if turn.role != "system"
        for text, other in ((turn.text, beside.text), (turn.context, beside.context))
        if text.strip()
    ]
    return tuple(texts[:-1] if skip else texts)


def _wrong_answers(noisy: Sequence[Example], clean: Sequence[Example]) -> dict[int, str]:
    answers = [example.turns[-1].text for example in clean]
    all_answers = frozenset(answers)
    vocabulary = frozenset(word for answer in answers for word in answer.split())
    found = {}
    for number, (a, answer) in enumerate(zip(noisy, answers, strict=True)):
        name = answer_class(answer, a.turns[-1].text, all_answers, vocabulary)
        if name is not None:
            found[number] = name
    return found


def _share(count: int, total: int) -> Estimate:
    """Return a share with Wilson's interval."""
    z, p = 1.96, count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return Estimate(p, max(0.0, middle - half), middle + half)


def _num_words(rows: Sequence[Row]) -> int:
    return sum(len(text.split()) for row in rows for text in row)
