"""Pieces of text -> token ids and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain

from transformers import PreTrainedTokenizerBase

from lope_dist.corpus.rows.turns import IGNORED, Example, RowError
from lope_dist.corpus.tokens.marking import piece_marks
from lope_dist.corpus.tokens.pieces import piece_tokens
from lope_dist.corpus.tokens.prompts import Form, Piece, located, render
from lope_dist.noise.marks import Marks, TextMarks

__all__ = ["IGNORED", "Tokenized", "encode", "tokenize"]


@dataclass(frozen=True)
class Tokenized:
    """One example as tokens.

    Decoder-only: ``labels`` has the length of ``input_ids`` and is not shifted.
    Encoder-decoder: ``input_ids`` is what the encoder reads, ``labels`` what the decoder writes.
    """

    example_id: int
    input_ids: list[int]
    labels: list[int]
    was_cut: bool
    corrupted: tuple[list[bool], list[bool]] | None = None
    """Whether a token lies in a word that noise changed, for each of ``input_ids`` and of
    ``labels``; None where nobody asked."""
    weight: float = 1.0
    """What its loss is multiplied by."""


def encode(
    examples: Sequence[Example],
    form: Form,
    marks: Sequence[TextMarks | None] | None = None,
) -> list[Tokenized]:
    """Return the tokens of examples, cut at ``form.max_length``, labels only on their targets.

    Each piece is tokenized by itself: no token spans a border between prompt and answer, and
    the prompt has the same tokens as at inference. An example whose answer lies wholly behind
    the cut is kept with no target, so that the order of the data does not depend on lengths.

    An encoder-decoder model learns the last answer alone; all before it is its input.

    The tokenizer is called once for all of them, for a call costs as much as a short text.
    What one example becomes does not depend on the others.

    ``marks``: what noise changed in each example; given, it is told of the tokens.

    Raises:
        LopeError: what `render` raises; with marks also a tokenizer that does not tell where
            its tokens come from, or a chat template that changes the texts.
    """
    pieces = []
    for example in examples:
        try:
            pieces.append([] if example.tokens else render(example, form))
        except RowError as error:
            raise located(error, example) from None
    of_pieces = None
    if marks is not None:
        of_pieces = [
            piece_marks(example, of_example, changed or {}, form)
            for example, of_example, changed in zip(examples, pieces, marks, strict=True)
        ]
    return tokenize(examples, pieces, form, of_pieces)


def tokenize(
    examples: Sequence[Example],
    pieces: Sequence[Sequence[Piece]],
    form: Form,
    marks: _PieceMarks = None,
) -> list[Tokenized]:
    """Return the tokens of examples that are rendered; those that came as tokens have no piece."""
    if not examples:
        return []
    length = form.max_length
    if form.is_encoder_decoder:
        rows = _encode_pairs(pieces, form.tokenizer, marks)
    else:
        adds_start = [form.template != "chat" or example.is_plain for example in examples]
        rows = _encode_rows(pieces, adds_start, form.tokenizer, marks)
    result = []
    for example, (ids, labels, corrupted) in zip(examples, rows, strict=True):
        if example.tokens is not None:
            ids, labels = example.tokens
            corrupted = None if marks is None else ([False] * len(ids), [False] * len(labels))
        result.append(
            Tokenized(
                example.id,
                ids[:length],
                labels[:length],
                was_cut=max(len(ids), len(labels)) > length,
                corrupted=corrupted and (corrupted[0][:length], corrupted[1][:length]),
            )
        )
    return result


_TokenMarks = tuple[list[bool], list[bool]] | None
_PieceMarks = Sequence[Sequence[Marks]] | None


@dataclass(frozen=True)
class _Profile:
    """What a tokenizer adds by itself before and after a text, and the text of the former."""

    before: list[int]
    after: list[int]
    start: str


def _encode_rows(
    examples: Sequence[Sequence[Piece]],
    adds_start: Sequence[bool],
    tokenizer: PreTrainedTokenizerBase,
    marks: _PieceMarks,
) -> list[tuple[list[int], list[int], _TokenMarks]]:
    profile = _profile(tokenizer)
    encoded = iter(piece_tokens(examples, tokenizer, marks))
    rows = []
    for pieces, is_bare in zip(examples, adds_start, strict=True):
        # A chat template writes the begin-of-sequence token itself, and so may a text.
        has_start = bool(profile.start) and pieces and pieces[0].text.startswith(profile.start)
        input_ids = list(profile.before) if is_bare and not has_start else []
        labels = [IGNORED] * len(input_ids)
        corrupted = [False] * len(input_ids)
        for piece in pieces:
            ids, is_marked = next(encoded)
            input_ids += ids
            labels += ids if piece.is_target else [IGNORED] * len(ids)
            corrupted += is_marked
        rows.append((input_ids, labels, None if marks is None else (corrupted, corrupted)))
    return rows


def _encode_pairs(
    examples: Sequence[Sequence[Piece]], tokenizer: PreTrainedTokenizerBase, marks: _PieceMarks
) -> list[tuple[list[int], list[int], _TokenMarks]]:
    profile = _profile(tokenizer)
    borders = [_last_answer(pieces) for pieces in examples]
    sides = [
        side
        for pieces, border in zip(examples, borders, strict=True)
        for side in (_joined(pieces[:border]), _joined(pieces[border:]))
    ]
    of_sides = None
    if marks is not None:
        of_sides = [
            _joined_marks(side, bytearray().join(of_side))
            for pieces, border, of_pieces in zip(examples, borders, marks, strict=True)
            for side, of_side in (
                (_joined(pieces[:border]), of_pieces[:border]),
                (_joined(pieces[border:]), of_pieces[border:]),
            )
        ]
    encoded = iter(piece_tokens(sides, tokenizer, of_sides))
    before, after = [False] * len(profile.before), [False] * len(profile.after)
    rows = []
    for number in range(len(examples)):
        (source, source_marks), (labels, label_marks) = (
            _concatenated([next(encoded) for _ in side])
            for side in sides[2 * number : 2 * number + 2]
        )
        marked = None if marks is None else ([*before, *source_marks, *after], label_marks)
        rows.append(([*profile.before, *source, *profile.after], labels, marked))
    return rows


def _last_answer(pieces: Sequence[Piece]) -> int:
    """Return where the run of targets begins that ends the pieces."""
    at = len(pieces)
    while at and pieces[at - 1].is_target:
        at -= 1
    return at


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces with what need not be apart as one."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and not joined[-1].is_literal and not piece.is_literal:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.is_target)
        else:
            joined.append(piece)
    return joined


def _joined_marks(pieces: Sequence[Piece], marks: Marks) -> list[Marks]:
    ends = list(accumulate(len(piece.text) for piece in pieces))
    return [marks[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _concatenated(parts: Sequence[tuple[list[int], list[bool]]]) -> tuple[list[int], list[bool]]:
    ids, marks = zip(*parts, strict=True) if parts else ((), ())
    return list(chain(*ids)), list(chain(*marks))


@lru_cache(maxsize=8)
def _profile(tokenizer: PreTrainedTokenizerBase) -> _Profile:
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    with_special = list(tokenizer("a")["input_ids"])
    start = next(i for i in range(len(with_special)) if with_special[i : i + len(bare)] == bare)
    text = "".join(map(str, tokenizer.convert_ids_to_tokens(with_special[:start])))
    return _Profile(with_special[:start], with_special[start + len(bare) :], text)
