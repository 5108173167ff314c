"""Examples as a stage sees them: with the data set's own noise and what the stage injects.

`FreshTokens` is the one path from an example to its tokens: in training, in building a corpus, in
showing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from lope_dist.config.noise import NoiseConfig, TextNoiseConfig
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.encode import Tokenized, encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.template_source import THOUGHTS
from lope_dist.noise.draws import Keys, child_keys
from lope_dist.noise.marks import Marks, TextMarks, marks_of_answer
from lope_dist.noise.mix import DATA_NOISE, TEXT_NOISE, corrupt, corrupt_responses, example_keys
from lope_dist.noise.words import end_of_thoughts

CLEAN = "clean"
"""The view without injected noise; the data set's own noise is in it."""
_DONOR_TRIES = ((0, 8), (8, 512))
"""Draws of another answer: few are made at once, and many where most answers are alike."""
_PROVED = 64


def noisy_view(epoch: int) -> str:
    """Return the name of the view with an epoch's injected text noise."""
    return f"noisy-{epoch}"


def epoch_of(view: str) -> int | None:
    """Return the epoch whose text noise a view has; None: there is none in it."""
    return None if view == CLEAN else int(view.removeprefix("noisy-"))


class Source(Protocol):
    """All examples of a data set; `source[i].id` is i."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class View:
    """An example as the stage sees it, and what noise did to it."""

    example: Example
    hits: dict[str, int]
    """Noise operation -> words or characters hit, or 1 for an answer; empty if clean."""
    marks: TextMarks | None = None
    """What noise changed, where that was asked for; a text that is not there is clean."""


Hit = tuple[int, int, str, int]
"""Number of the example in the batch, slot of the text (see `field_at`), operation, units hit."""


def stage_views(
    examples: Sequence[Example],
    source: Source,
    noise: NoiseConfig,
    *,
    injects_text: bool,
    seed: int,
    epoch: int,
    has_marks: bool = False,
) -> list[View]:
    """Return the examples with the data's noise (the same in every epoch) under the stage's.

    What comes out depends on each example, the seed and, for the stage's part, the epoch; not
    on the other examples of the batch. System turns are never touched.

    Args:
        examples: Some examples of the source, in any order.
        source: All examples; wrong answers are taken from it as they are.
        noise: Noise of the data and of the stages.
        injects_text: Whether the stage injects text noise.
        seed: Of the run.
        epoch: Of the stage.
        has_marks: Whether to tell which words noise changed.
    """
    current, hits = list(examples), [{} for _ in examples]
    marks: list[TextMarks] | None = [{} for _ in examples] if has_marks else None
    layers = [(noise.data, DATA_NOISE, 0), (noise.text, TEXT_NOISE, epoch)]
    for config, purpose, of_epoch in layers[: 2 if injects_text else 1]:
        if not config.is_on:
            continue
        keys = example_keys(seed, purpose, of_epoch, [example.id for example in current])
        current, layer_hits = with_noise(current, source, config, keys, marks)
        for number, _, operation, count in layer_hits:
            counts = hits[number]
            counts[operation] = counts.get(operation, 0) + count
    marks_or_none = [None] * len(current) if marks is None else marks
    return [View(*view) for view in zip(current, hits, marks_or_none, strict=True)]


def with_noise(
    examples: Sequence[Example],
    source: Source,
    config: TextNoiseConfig,
    keys: Keys,
    marks: list[TextMarks] | None = None,
) -> tuple[list[Example], list[Hit]]:
    """Return the examples with one layer of noise, and each hit; ``keys``: one for an example.

    ``marks``: what earlier layers changed in each example; made to fit the returned ones.

    Paper: section 3.2 (discrete part of HyNoIse).
    """
    new: dict[int, dict[int, str]] = {}  # number of the example -> slot -> text
    hits: list[Hit] = []
    if config.responses.rate > 0:
        last = [_last_answer(example) for example in examples]
        for number, name, text in corrupt_responses(
            [answer.text for answer in last],
            lambda number, key: _donor(source, examples[number], key),
            keys,
            config.responses,
        ):
            slot, thoughts, old, _ = last[number]
            new[number] = {slot: thoughts + text}
            if marks is not None:
                start = len(thoughts)
                before = _marks_at(marks[number], slot, thoughts + old)
                after = marks_of_answer(old, before[start:], text)
                marks[number][slot] = before[:start] + after
            hits.append((number, slot, name, 1))
    texts, owners, slots = _fields(examples, config.fields, new)
    text_marks = None
    if marks is not None:
        of_texts = zip(texts, owners, slots, strict=True)
        text_marks = [_marks_at(marks[owner], slot, text) for text, owner, slot in of_texts]
    corrupted = corrupt(texts, owners, slots, keys, config, text_marks)
    if marks is not None and corrupted.marks is not None:
        for owner, slot, text_mark in zip(owners, slots, corrupted.marks, strict=True):
            marks[owner][slot] = text_mark
    for old, text, owner, slot in zip(texts, corrupted.texts, owners, slots, strict=True):
        if text is not old:
            new.setdefault(owner, {})[slot] = text
    hits += [(owners[i], slots[i], name, count) for i, name, count in corrupted.hits]
    changed = list(examples)
    for number, new_texts in new.items():
        changed[number] = _with_texts(changed[number], new_texts)
    return changed, hits


def field_at(example: Example, slot: int) -> tuple[int, str]:
    """Return the turn of a slot, and whether it is its `instruction`, `input` or `response`.

    Slot ``2 * turn`` is the text of a turn, the one behind it the turn's context.
    """
    turn, is_context = divmod(slot, 2)
    if example.turns[turn].role == "assistant":
        return turn, "response"
    return turn, "input" if is_context else "instruction"


@dataclass(frozen=True)
class Row:
    """An example as tokens, and what noise did to it."""

    tokens: Tokenized
    hits: dict[str, int]
    """Noise operation -> units that it hit."""


class TokenProvider(Protocol):
    """Gives examples as a stage sees them: made on the fly, or read from a built corpus."""

    def rows(self, view: str, ids: Sequence[int]) -> list[Row]:
        """Return examples of a view, in the order asked for."""
        ...


@dataclass(frozen=True)
class FreshTokens:
    """Noise and tokens, made when they are asked for."""

    source: Source
    form: Form
    noise: NoiseConfig
    seed: int
    has_marks: bool = False
    """Whether rows tell which tokens noise changed."""

    def check_marks(self, view: str) -> None:
        """Check on the first examples of a view that what noise changed in them can be told.

        Raises:
            MarksLost: a chat template that writes other texts once the marks are in them.
        """
        self.rows(view, range(min(_PROVED, len(self.source))), is_strict=True)

    def rows(self, view: str, ids: Sequence[int], *, is_strict: bool = False) -> list[Row]:
        """Return examples of a view, in the order asked for; ``is_strict``: as `encode`'s."""
        epoch = epoch_of(view)
        views = stage_views(
            [self.source[index] for index in ids],
            self.source,
            self.noise,
            injects_text=epoch is not None,
            seed=self.seed,
            epoch=epoch or 0,
            has_marks=self.has_marks,
        )
        examples = [view.example for view in views]
        marks = [view.marks for view in views] if self.has_marks else None
        tokens = encode(examples, self.form, marks, is_strict=is_strict)
        return [Row(tokenized, view.hits) for tokenized, view in zip(tokens, views, strict=True)]


def _marks_at(marks: TextMarks, slot: int, text: str) -> Marks:
    return marks.get(slot) or bytearray(len(text))


def _fields(
    examples: Sequence[Example], fields: Sequence[str], replaced: dict[int, dict[int, str]]
) -> tuple[list[str], list[int], list[int]]:
    """Return the texts that may be hit, the examples they are of and their slots."""
    may_be_hit = {
        "user": ("instruction" in fields, "input" in fields),
        "assistant": ("response" in fields, False),
    }
    texts: list[str] = []
    owners: list[int] = []
    slots: list[int] = []
    for number, example in enumerate(examples):
        for index, turn in enumerate(example.turns):
            has_text, has_context = may_be_hit.get(turn.role, (False, False))
            if has_text and turn.text and 2 * index not in replaced.get(number, ()):
                texts.append(turn.text)
                owners.append(number)
                slots.append(2 * index)
            if has_context and turn.context:
                texts.append(turn.context)
                owners.append(number)
                slots.append(2 * index + 1)
    return texts, owners, slots


def _with_texts(example: Example, texts: dict[int, str]) -> Example:
    turns = list(example.turns)
    for slot, text in texts.items():
        number, is_context = divmod(slot, 2)
        old = turns[number]
        new_text, context = (old.text, text) if is_context else (text, old.context)
        turns[number] = Turn(old.role, new_text, context, old.is_learnt, old.more)
    # Not `dataclasses.replace`, which takes a fifth of the time of all noise.
    unchanged = (example.tools, example.is_plain, example.tokens, example.weight)
    return Example(example.id, tuple(turns), *unchanged)


class _LastAnswer(NamedTuple):
    """An example's last answer apart from the thoughts in its text, which stay as they are."""

    slot: int
    thoughts: str
    text: str
    has_thoughts: bool  # there, or under a key of their own


def _last_answer(example: Example) -> _LastAnswer:
    for index in range(len(example.turns) - 1, -1, -1):
        if example.turns[index].role == "assistant":
            turn = example.turns[index]
            start = end_of_thoughts(turn.text)
            thoughts, text = turn.text[:start], turn.text[start:]
            has_thoughts = bool(thoughts) or any((turn.more or {}).get(key) for key in THOUGHTS)
            return _LastAnswer(2 * index, thoughts, text, has_thoughts)
    return _LastAnswer(0, "", "", has_thoughts=False)


def _donor(source: Source, example: Example, key: int) -> str | None:
    """Return the answer of another example, drawn by ``key``, that is not this one's too.

    Beside thoughts that stay, it has none of the other's.
    """
    if len(source) < 2:
        return None
    current = _last_answer(example)
    for tries in _DONOR_TRIES:
        for draw in child_keys(np.array([key], np.uint64), np.arange(*tries)).tolist():
            other = source[(example.id + 1 + draw % (len(source) - 1)) % len(source)]
            drawn = _last_answer(other)
            answer = drawn.text if current.has_thoughts else drawn.thoughts + drawn.text
            if answer.strip() and answer != current.text:
                return answer
    return None
