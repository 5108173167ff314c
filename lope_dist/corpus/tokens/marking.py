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
from lope_dist.corpus.tokens.prompts import Form, Piece, located, render
from lope_dist.noise.marks import Marks, TextMarks

_START, _END = "\ue013", "\ue014"
_RUN = re.compile(b"\x01+")
_EITHER = re.compile(f"[{_START}{_END}]")


def all_marked(example: Example) -> TextMarks:
    """Return marks of all that an example itself says: what is left is the template's."""
    marks = {}
    for number, turn in enumerate(example.turns):
        marks[2 * number] = bytearray(b"\x01" * len(turn.text))
        marks[2 * number + 1] = bytearray(b"\x01" * len(turn.context))
    return marks


def marked_pieces(
    example: Example, pieces: Sequence[Piece], marks: TextMarks, form: Form
) -> list[Piece]:
    """Return the pieces with their marks; what the template adds is clean.

    Args:
        example: The example with noise.
        pieces: What `render` made of it.
        marks: Of its texts.
        form: As `render`'s.

    Raises:
        LopeError: a chat template that writes other texts once the marks are in them.
    """
    text = "".join(piece.text for piece in pieces)
    marked = bytearray(len(text))
    if any(1 in of_text for of_text in marks.values()):
        try:
            framed = "".join(piece.text for piece in render(_framed(example, marks), form))
        except RowError as error:
            raise located(error, example) from None
        if _EITHER.sub("", framed) != text:
            raise LopeError(
                f"The chat template changes a text of example {example.id}, so which of its tokens "
                "noise hit cannot be told; set data.template=alpaca."
            )
        position = inside = 0
        for match in re.finditer(f"([^{_START}{_END}]*)([{_START}{_END}]?)", framed):
            if inside:
                marked[position : position + len(match[1])] = b"\x01" * len(match[1])
            position += len(match[1])
            inside = match[2] == _START if match[2] else inside
    result, position = [], 0
    for piece in pieces:
        end = position + len(piece.text)
        result.append(Piece(piece.text, piece.is_target, piece.is_literal, marked[position:end]))
        position = end
    return result


def _framed(example: Example, marks: TextMarks) -> Example:
    """Return the example with marked runs between private-use characters."""
    turns = list(example.turns)
    for slot, of_text in marks.items():
        turn, is_context = divmod(slot, 2)
        if is_context:
            turns[turn] = replace(turns[turn], context=_frame(turns[turn].context, of_text))
        else:
            turns[turn] = replace(turns[turn], text=_frame(turns[turn].text, of_text))
    return replace(example, turns=tuple(turns))


def _frame(text: str, marks: Marks) -> str:
    parts, position = [], 0
    for run in _RUN.finditer(marks):
        word = text[run.start() : run.end()]
        start = run.start() + len(word) - len(word.lstrip())  # a template may strip texts
        end = run.end() - len(word) + len(word.rstrip())
        if start < end:
            parts += [text[position:start], _START, text[start:end], _END]
            position = end
    return "".join([*parts, text[position:]])
