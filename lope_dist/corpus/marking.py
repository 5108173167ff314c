"""Where the texts of an example stand in its rendered pieces, so that their marks can follow."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lope_dist.core.errors import LopeError
from lope_dist.corpus.prompts import Piece, render
from lope_dist.corpus.turns import Example, Turn
from lope_dist.corpus.views import TextMarks
from lope_dist.noise.marks import Marks

# Private-use characters around a text's place: no template looks into them or strips them.
_HOLE = re.compile("\ue000(\\d+)\ue001")


def piece_marks(
    example: Example,
    pieces: Sequence[Piece],
    marks: TextMarks,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Marks]:
    """Return the marks of each piece; what the template adds is clean.

    The template is rendered once more around numbered holes, which shows where it puts the
    texts. A text may have lost the white space around it there.

    Args:
        example: The example with noise.
        pieces: What `render` made of it.
        marks: Of its texts.
        template: As `render`'s.
        tokenizer: As `render`'s.

    Raises:
        LopeError: a chat template that changes the texts otherwise.
    """
    whole = "".join(piece.text for piece in pieces)
    marked = bytearray(len(whole))
    if any(1 in own for own in marks.values()):
        frame = "".join(piece.text for piece in render(_holes(example), template, tokenizer))
        first, *parts = _HOLE.split(frame)
        at = len(first)
        for number, after in zip(parts[::2], parts[1::2], strict=True):
            turn, is_context = divmod(int(number), 2)
            text = example.turns[turn].context if is_context else example.turns[turn].text
            start, end = _found(example, whole, at, text, after)
            if int(number) in marks:
                marked[at : at + end - start] = marks[int(number)][start:end]
            at += end - start + len(after)
    result, at = [], 0
    for piece in pieces:
        result.append(marked[at : at + len(piece.text)])
        at += len(piece.text)
    return result


def _holes(example: Example) -> Example:
    """Return the example with a numbered hole in the place of each text that is not empty."""

    def hole(number: int, text: str) -> str:
        return f"\ue000{number}\ue001" if text else text

    turns = [
        Turn(turn.role, hole(2 * index, turn.text), hole(2 * index + 1, turn.context))
        for index, turn in enumerate(example.turns)
    ]
    return Example(example.id, tuple(turns))


def _found(example: Example, whole: str, at: int, text: str, after: str) -> tuple[int, int]:
    """Return the part of ``text`` that stands at a place of ``whole``, with ``after`` behind."""
    left, right = len(text) - len(text.lstrip()), len(text.rstrip())
    for start, end in ((0, len(text)), (left, right), (left, len(text)), (0, right)):
        if whole.startswith(text[start:end] + after, at):
            return start, end
    raise LopeError(
        f"The chat template changes a text of example {example.id}, so which of its tokens noise "
        "hit cannot be told; set data.template=alpaca."
    )
