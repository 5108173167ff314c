"""Where the words that noise changed stand in an example's rendered pieces.

A private-use character goes on either side of each run of them, the example is rendered so, and
where these come out is where the words are, whatever the template does with the texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import Example, RowError
from lope_dist.corpus.tokens.prompts import Form, Piece, render
from lope_dist.noise.marks import Marks, TextMarks

_START, _END = "\ue013", "\ue014"
_RUN = re.compile(b"\x01+")
_WHOLE_FRAME = re.compile(f"{_START}([^{_START}{_END}]*){_END}")


class MarksLost(LopeError):
    """A chat template writes other texts once marks are in them."""


def all_marked(example: Example) -> TextMarks:
    """Return marks of all that an example itself says: what is left is the template's."""
    marks = {}
    for number, turn in enumerate(example.turns):
        marks[2 * number] = bytearray(b"\x01" * len(turn.text))
        marks[2 * number + 1] = bytearray(b"\x01" * len(turn.context))
    return marks


def marked_pieces(
    example: Example, pieces: Sequence[Piece], marks: TextMarks, form: Form, *, is_strict: bool
) -> list[Piece]:
    """Return the pieces with their marks; what the template adds is clean.

    Args:
        example: The example with noise.
        pieces: What `render` made of it.
        marks: Of its texts.
        form: As `render`'s.
        is_strict: Whether a template that writes other texts once the marks are in them is an
            error. Else all that is learnt of such an example counts as changed.

    Raises:
        MarksLost: such a template.
    """
    marked: Marks | None = bytearray(sum(len(piece.text) for piece in pieces))
    if any(1 in of_text for of_text in marks.values()):
        marked = _marks_in(_framed(example, marks, form), pieces, form)
    if marked is None and is_strict:
        raise MarksLost(
            f"The chat template changes a text of example {example.id}, so which of its tokens "
            "noise hit cannot be told; set data.template=alpaca."
        )
    result, position = [], 0
    for piece in pieces:
        end = position + len(piece.text)
        of_piece = bytearray([piece.is_target]) * len(piece.text)
        if marked is not None:
            of_piece = marked[position:end]
        result.append(Piece(piece.text, piece.is_target, piece.is_literal, of_piece))
        position = end
    return result


def _marks_in(framed: Example, pieces: Sequence[Piece], form: Form) -> Marks | None:
    """Return the marks of the pieces' text, or None where frames come out of the template broken.

    ``framed``: the example of the pieces, with frames.
    """
    try:
        rendered = "".join(piece.text for piece in render(framed, form))
    except RowError:
        return None
    text = "".join(piece.text for piece in pieces)
    if _WHOLE_FRAME.sub(r"\1", rendered) != text:
        return None
    marked = bytearray(len(text))
    for number, frame in enumerate(_WHOLE_FRAME.finditer(rendered)):
        start, length = frame.start() - 2 * number, len(frame[1])
        marked[start : start + length] = b"\1" * length
    return marked


def _framed(example: Example, marks: TextMarks, form: Form) -> Example:
    """Return the example with marked runs between private-use characters."""
    tags = form.source.tags if form.template == "chat" and not example.is_plain else None
    turns = list(example.turns)
    for slot, of_text in marks.items():
        turn, is_context = divmod(slot, 2)
        if is_context:
            turns[turn] = replace(turns[turn], context=_frame(turns[turn].context, of_text, tags))
        else:
            turns[turn] = replace(turns[turn], text=_frame(turns[turn].text, of_text, tags))
    return replace(example, turns=tuple(turns))


def _frame(text: str, marks: Marks, tags: re.Pattern[str] | None) -> str:
    """Return a text with frames around the marked runs.

    White space and what the template may look for stay outside of them: it may strip texts, and
    cut them there.
    """
    parts, position = [], 0
    for run in _RUN.finditer(marks):
        start = run.start()
        borders = [tag.span() for tag in tags.finditer(text, *run.span())] if tags else []
        for end, following in [*borders, (run.end(), run.end())]:
            part = text[start:end]
            if word := part.strip():
                first = start + part.index(word)
                parts += [text[position:first], _START, word, _END]
                position = first + len(word)
            start = following
    return "".join([*parts, text[position:]])
