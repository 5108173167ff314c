"""The noise of a data set, estimated: beside a clean copy of it, or against other clean text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.account import BadRows
from lope_dist.corpus.rows.layouts import Layout, parsed_rows
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.turns import RowError, Turn
from lope_dist.noise.fit_pairs import answer_class, count_changes
from lope_dist.noise.fit_solve import Estimate, Fit, Row, fit_rates, simulated
from lope_dist.noise.fit_unpaired import Reference
from lope_dist.noise.spaceless import split_words

MIN_ROWS = 20
MIN_WORDS = 500
"""With fewer, 5 % of them are too few to distinguish operations."""
_ANSWER_SIMULATIONS = 4
_HIT = ("user", "assistant")
"""Whose turns noise may hit."""

Turns = tuple[Turn, ...]


@dataclass(frozen=True)
class NoiseFit:
    """The noise that a data set shows: which operations, and how often each."""

    rows: int
    words: int
    is_paired: bool
    operations: dict[str, Estimate]
    """Operation -> share of the words that it hits."""
    responses: dict[str, Estimate]
    """Operation on whole answers -> share of the examples; only from pairs."""
    not_judged: tuple[str, ...] = ()
    """Operations that hardly a word of these texts can take."""

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
            "aligned with a clean copy."
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
        if self.not_judged:
            lines.append(f"# Hardly a word can take, so not judged: {', '.join(self.not_judged)}.")
        tree = {"noise": {section: self.as_config()}}
        return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False)

    def as_json(self) -> dict[str, Any]:
        """Return everything, plainly."""
        return asdict(self)


def fit_paired(
    noisy_path: Path, clean_path: Path, seed: int, data: DataConfig | None = None
) -> NoiseFit:
    """Fit from two files of the same rows in the same order.

    A row that is bad in either file is left out of both. ``data``: as whose rows both are read.

    Raises:
        LopeError: files of different length or layout, too few rows, or too many bad ones.
    """
    both = [list(_read(path, data)) for path in (noisy_path, clean_path)]
    if len(both[0]) != len(both[1]):
        raise LopeError(
            f"{noisy_path} has {len(both[0])} rows and {clean_path} {len(both[1])}; pairs are "
            "taken row by row, so remove what has no partner, or give the clean file as "
            "--reference."
        )
    _check_bad_rows(both, data)
    noisy, clean = [], []
    for number, (a, b) in enumerate(zip(*both, strict=True), start=1):
        if isinstance(a[1], RowError) or isinstance(b[1], RowError):
            continue
        if [turn.role for turn in a[1]] != [turn.role for turn in b[1]]:
            raise LopeError(
                f"Row {number} of {noisy_path} and {clean_path} have other turns; pairs are taken "
                "row by row."
            )
        noisy.append(a[1])
        clean.append(b[1])
    _check_size(clean_path, clean)
    wrong = _wrong_answers(_answers(noisy), _answers(clean))
    rows = [_row(turns, skip=i in wrong) for i, turns in enumerate(clean)]
    noisy_rows = [
        _texts_beside(a, b, skip=i in wrong)
        for i, (a, b) in enumerate(zip(noisy, clean, strict=True))
    ]
    fit = fit_rates(
        noisy_rows, rows, lambda number, row: count_changes(rows[number], row), seed=seed
    )
    responses = _responses(Counter(wrong.values()), clean, fit, seed)
    return NoiseFit(len(rows), _num_words(rows), True, fit.rates, responses, fit.not_judged)


def fit_unpaired(
    noisy_path: Path, reference_path: Path, seed: int, data: DataConfig | None = None
) -> NoiseFit:
    """Fit from noisy rows and other, clean ones of the same kind of text.

    Half of the reference makes the vocabulary; the other says what clean text looks like to it.
    ``data``: as whose rows both are read.

    Raises:
        LopeError: too few rows, or too many bad ones.
    """
    both = [list(_read(path, data)) for path in (noisy_path, reference_path)]
    _check_bad_rows(both, data)
    good = [[turns for _, turns in rows if not isinstance(turns, RowError)] for rows in both]
    for path, turns in zip((noisy_path, reference_path), good, strict=True):
        _check_size(path, turns)
    noisy, reference = ([_row(turns) for turns in rows] for rows in good)
    counts = Reference(text for row in reference[0::2] for text in row)
    fit = fit_rates(noisy, reference[1::2], lambda _, row: counts.count(row), seed=seed)
    return NoiseFit(len(noisy), _num_words(noisy), False, fit.rates, {}, fit.not_judged)


def _read(path: Path, data: DataConfig | None) -> Iterator[tuple[str, Turns | RowError]]:
    """Yield the location of each row, and its turns or the reason why it is bad."""
    (section,) = (
        DataConfig(path=str(path)) if data is None else data.of_file(str(path))
    ).all_sources
    layout = Layout(section, allow_empty_response=True)
    for rows, number, row in parsed_rows(find_rows(section), layout):
        if isinstance(row, RowError):
            yield rows.location(number), row
        else:
            no_text = RowError("tokens", "the row is tokens; noise is fitted to text")
            yield rows.location(number), row.turns or no_text


def _check_bad_rows(
    files: list[list[tuple[str, Turns | RowError]]], data: DataConfig | None
) -> None:
    for rows in files:
        bad_rows = BadRows(allowed=data.max_bad_rows if data else 0.0, num_rows=len(rows))
        for location, turns in rows:
            if isinstance(turns, RowError):
                bad_rows.add(location, turns)
        bad_rows.check()
        bad_rows.tell()


def _check_size(path: Path, rows: Sequence[Turns]) -> None:
    if len(rows) < MIN_ROWS:
        raise LopeError(f"{path} has {len(rows)} rows; a fit needs {MIN_ROWS}, better 2,000.")
    num_words = _num_words([_row(turns) for turns in rows])
    if num_words < MIN_WORDS:
        raise LopeError(
            f"{path} has {num_words} words in {len(rows)} rows; a fit needs {MIN_WORDS}, better "
            "2,000 rows."
        )


def _row(turns: Turns, skip: bool = False) -> Row:
    """Return the texts that noise may hit, ``skip``: without the last answer."""
    turns = tuple(turn for turn in turns if turn.role in _HIT)
    texts = [text for turn in turns for text in (turn.text, turn.context) if text.strip()]
    return tuple(texts[:-1] if skip else texts)


def _texts_beside(noisy: Turns, clean: Turns, skip: bool) -> Row:
    """Return the noisy texts where the clean ones are not empty."""
    texts = [
        noisy_text
        for turn, noisy_turn in zip(clean, noisy, strict=True)
        if turn.role in _HIT
        for text, noisy_text in ((turn.text, noisy_turn.text), (turn.context, noisy_turn.context))
        if text.strip()
    ]
    return tuple(texts[:-1] if skip else texts)


def _answers(rows: Sequence[Turns]) -> list[str]:
    return [turns[-1].text for turns in rows]


def _wrong_answers(noisy: Sequence[str], clean: Sequence[str]) -> dict[int, str]:
    all_answers = frozenset(clean)
    vocabulary = frozenset(word for answer in clean for word in split_words(answer))
    classes = {}
    for number, (new, old) in enumerate(zip(noisy, clean, strict=True)):
        name = answer_class(old, new, all_answers, vocabulary)
        if name is not None:
            classes[number] = name
    return classes


def _responses(
    counts: Counter[str], clean: Sequence[Turns], fit: Fit, seed: int
) -> dict[str, Estimate]:
    """Return the shares of wrong answers beyond those that noise on words looks like."""
    answered = [turns for turns in clean if turns[-1].text.strip()]
    rows, answers = [_row(turns) for turns in answered], _answers(answered)
    seeming: Counter[str] = Counter()
    rates = {name: estimate.rate for name, estimate in fit.rates.items()}
    for number in range(_ANSWER_SIMULATIONS if counts else 0):
        noisy = [row[-1] for row in simulated(rows, rates, seed + number)[0]]
        seeming.update(_wrong_answers(noisy, answers).values())
    shares = {}
    for name in sorted(counts):
        expected = seeming[name] / _ANSWER_SIMULATIONS
        excess = counts[name] - expected
        if excess > 3 * math.sqrt(expected + 1 / _ANSWER_SIMULATIONS):
            shares[name] = _share(excess, len(clean))
    return shares


def _share(count: float, total: int) -> Estimate:
    """Return a share with Wilson's interval."""
    z, p = 1.96, count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return Estimate(p, max(0.0, middle - half), middle + half)


def _num_words(rows: Sequence[Row]) -> int:
    return sum(len(split_words(text)) for row in rows for text in row)
