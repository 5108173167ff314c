"""An example -> pieces of text, each a target of the loss or not.

Targets are what the assistant says in the turns that are learnt, together with what ends it (the
end-of-sequence or end-of-turn token). Plain text is a single target.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import tokenizer_hash
from lope_dist.corpus.rows.turns import Example, RowError, Turn
from lope_dist.corpus.tokens.chat import ChatTemplate
from lope_dist.corpus.tokens.control import guarded, unguarded
from lope_dist.corpus.tokens.template_source import TemplateSource, end_of_sequence
from lope_dist.noise.marks import Marks

_PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
_RESPONSE = "### Response:"


@dataclass(frozen=True)
class Piece:
    """A run of text that is learnt, or one that is only read."""

    text: str
    is_target: bool
    is_literal: bool = False
    """Whether this is the text of a control token, and not the token."""
    marks: Marks | None = None
    """Which of its characters are of words that noise changed; None where nobody asked."""


@dataclass(frozen=True)
class Form:
    """How examples become tokens: all of `data` and the model that decides it."""

    tokenizer: PreTrainedTokenizerBase
    template: Literal["alpaca", "chat"]
    max_length: int
    is_encoder_decoder: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    day: str | None = None
    """The template's date; None: today."""
    vocabulary: int | None = None
    """Token ids that the model has, where that is known."""

    @classmethod
    def of(
        cls,
        data: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        is_encoder_decoder: bool,
        vocabulary: int | None = None,
    ) -> Form:
        """Return the form of a run's examples."""
        return cls(
            tokenizer,
            data.template,
            data.max_length,
            is_encoder_decoder,
            data.template_arguments,
            data.template_date,
            vocabulary,
        )

    @cached_property
    def source(self) -> TemplateSource:
        """The tokenizer's chat template."""
        return TemplateSource(self.tokenizer, self.arguments, self.day)

    @cached_property
    def chat(self) -> ChatTemplate:
        """How that shows answers."""
        return ChatTemplate(self.tokenizer, self.source)

    @cached_property
    def template_identity(self) -> str:
        """What decides the text of an example, in a word."""
        if self.template != "chat":
            return self.template
        text = json.dumps(self.source.identity)
        return f"chat {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @cached_property
    def identity(self) -> list[Any]:
        """All that decides which tokens an example becomes."""
        kind = "encoder-decoder" if self.is_encoder_decoder else "decoder"
        tokenizer = self.tokenizer
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            name = tokenizer_hash(tokenizer)
        else:  # its text says all, and to sort it would take as long as a thousand rows
            special = sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items())
            text = backend.to_str() + json.dumps(special)
            name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return [name, self.template_identity, self.max_length, kind, self.vocabulary]


def render(example: Example, form: Form) -> list[Piece]:
    """Return the pieces of an example whose answers are all learnt in one row.

    Raises:
        RowError: what `render_rows` raises, or answers that the template shows apart.
        LopeError: the tokenizer has no end-of-sequence token or no chat template.
    """
    if not example.learnt:  # history alone, as where rows are counted and not learnt
        every = replace(example, turns=tuple(replace(t, is_learnt=True) for t in example.turns))
        return [replace(p, is_target=False) for p in render_rows(every, form)[-1][1]]
    rows = render_rows(example, form)
    if len(rows) > 1:
        raise RowError(
            "rewritten by the template",
            "the chat template renders the start of a conversation differently once more turns "
            f"follow, so it is {len(rows)} rows and not one; split it into rows of one answer",
        )
    return rows[0][1]


def render_rows(
    example: Example, form: Form, *, apart: bool = False
) -> list[tuple[Example, list[Piece]]]:
    """Return the rows that an example becomes: each learnt answer in one, behind its own history.

    It is one row, unless the chat template shows earlier turns differently once more follow: then
    a row has all answers that stand behind what inference would show, and the next row begins
    with the history as it is shown from there on. ``apart``: every answer has a row of its own.

    Raises:
        RowError: the template refuses the conversation, or has no place for what it says.
        LopeError: as `render`.
    """
    tokenizer = form.tokenizer
    if example.is_plain:
        text, end = example.turns[0].text, end_of_sequence(tokenizer)
        return [(example, [Piece(text if text.rstrip().endswith(end) else text + end, True)])]
    if form.template == "alpaca":
        is_split = apart and len(example.learnt) > 1
        parts = [_only(example, [i]) for i in example.learnt] if is_split else [example]
        end = end_of_sequence(tokenizer)
        return [(p, _cut_at_guards(_render_alpaca(guarded(p, tokenizer), end))) for p in parts]
    _check_calls(example, form)
    safe = guarded(example, tokenizer)
    rows: list[tuple[list[int], list[Piece]]] = []
    shown = None
    for answer in form.chat.answers(safe):
        if shown is None or apart or not answer.prompt.startswith(shown):
            rows.append(([], []))
            shown = ""
        turns, pieces = rows[-1]
        turns.append(answer.turn)
        pieces.append(Piece(answer.prompt[len(shown) :], False))
        pieces += [Piece(text, is_target) for text, is_target in answer.parts]
        shown = answer.rendering
    if len(rows) == 1:
        return [(example, _cut_at_guards(rows[0][1]))]
    return [(_only(example, turns), _cut_at_guards(pieces)) for turns, pieces in rows]


def alpaca_prompt(instruction: str, context: str = "") -> str:
    """Return Stanford Alpaca's prompt, up to and with `### Response:`."""
    return "\n\n".join(
        [*_alpaca_turn(Turn("user", instruction, context), is_first=True), _RESPONSE]
    )


def _alpaca_turn(turn: Turn, *, is_first: bool) -> list[str]:
    preamble = _PREAMBLE_WITH_INPUT if turn.context else _PREAMBLE
    return [
        *([preamble] if is_first else []),
        f"### Instruction:\n{turn.text}",
        *([f"### Input:\n{turn.context}"] if turn.context else []),
    ]


def _render_alpaca(example: Example, end: str) -> list[Piece]:
    """Return the pieces in Alpaca's template.

    The template is of one turn; for more, each further user turn repeats its sections without
    the preamble, and a system turn takes the preamble's place. `### Response:` stands right
    before each answer, and nowhere else.
    """
    pieces: list[Piece] = []
    sections: list[str] = []
    for turn in example.turns[: max(example.learnt, default=-1) + 1]:
        if turn.role == "assistant" and not (turn.more and turn.more.get("tool_calls")):
            prompt = "\n\n".join([*sections, _RESPONSE])
            pieces.append(Piece("\n\n" + prompt if pieces else prompt, False))
            pieces.append(Piece(turn.text + end, turn.is_learnt))
            sections = []
        elif turn.role == "system":
            sections.append(turn.text)
        elif turn.role == "user":
            sections += _alpaca_turn(turn, is_first=not pieces and not sections)
        else:
            raise RowError(
                "not shown by the template",
                "the template 'alpaca' has no place for tools and their calls; set "
                "data.template=chat",
            )
    return pieces


def _check_calls(example: Example, form: Form) -> None:
    """Refuse calls that would vanish.

    Raises:
        RowError: calls of tools in a template that knows none.
    """
    has_calls = any(turn.more and turn.more.get("tool_calls") for turn in example.turns)
    if has_calls and not form.source.mentions("tool_calls"):
        raise RowError(
            "not shown by the template",
            "the chat template shows no tool_calls, so what the assistant calls would not be "
            "learnt; use a tokenizer whose template knows them, or write them into the text",
        )


def _only(example: Example, answers: list[int]) -> Example:
    """Return the example up to the last of some answers, with these alone as targets."""
    turns = [
        turn if turn.role != "assistant" or i in answers else replace(turn, is_learnt=False)
        for i, turn in enumerate(example.turns[: answers[-1] + 1])
    ]
    return replace(example, turns=tuple(turns))


def _cut_at_guards(pieces: list[Piece]) -> list[Piece]:
    return [
        Piece(text, piece.is_target, is_literal)
        for piece in pieces
        for text, is_literal in unguarded(piece.text)
    ]


def located(error: RowError, example: Example) -> LopeError:
    """Return the error of an example that was rendered before and now is not."""
    return LopeError(f"Example {example.id}: {error}.")
