"""Pieces of text -> token ids and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from transformers import PreTrainedTokenizerBase

from lope_dist.corpus.rows.turns import IGNORED, Example, RowError
from lope_dist.corpus.tokens.marking import marked_pieces
from lope_dist.corpus.tokens.pieces import piece_tokens
from lope_dist.corpus.tokens.prompts import Form, Piece, located, render
from lope_dist.noise.marks import TextMarks

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
    *,
    is_strict: bool = True,
) -> list[Tokenized]:
    """Return the tokens of examples, cut at ``form.max_length``, labels only on their targets.

    Each piece is tokenized by itself: no token spans a border between prompt and answer, and
    the prompt has the same tokens as at inference. An example whose answer lies wholly behind
    the cut is kept with no target, so that the order of the data does not depend on lengths.

    An encoder-decoder model learns the last answer alone; all before it is its input. So where
    rows are read, each answer becomes an example (`render_rows`).

    The tokenizer is called once for all of them, for a call costs as much as a short text.
    What one example becomes does not depend on the others.

    ``marks``: what noise changed in each example; given, it is told of the tokens.
    ``is_strict``: as `marked_pieces`'.

    Raises:
        LopeError: what `render` raises; with marks also a tokenizer that does not tell where
            its tokens come from, or, if strict, a chat template that changes the texts.
    """
    pieces = []
    for example in examples:
        try:
            pieces.append([] if example.tokens else render(example, form))
        except RowError as error:
            raise located(error, example) from None
    if marks is not None:
        pieces = [
            marked_pieces(example, of_example, changed or {}, form, is_strict=is_strict)
            for example, of_example, changed in zip(examples, pieces, marks, strict=True)
        ]
    return tokenize(examples, pieces, form, has_marks=marks is not None)


def tokenize(
    examples: Sequence[Example],
    pieces: Sequence[Sequence[Piece]],
    form: Form,
    *,
    has_marks: bool = False,
) -> list[Tokenized]:
    """Return the tokens of examples that are rendered; those that came as tokens have no piece.

    ``has_marks``: the pieces have marks, and the tokens are to have them.
    """
    if not examples:
        return []
    length = form.max_length
    if form.is_encoder_decoder:
        rows = _encode_pairs(pieces, form.tokenizer)
    else:
        adds_start = [form.template != "chat" or example.is_plain for example in examples]
        rows = _encode_rows(pieces, adds_start, form.tokenizer)
    result = []
    for example, (ids, labels, corrupted) in zip(examples, rows, strict=True):
        if example.tokens is not None:
            ids, labels = example.tokens
            corrupted = [False] * len(ids), [False] * len(labels)
        result.append(
            Tokenized(
                example.id,
                ids[:length],
                labels[:length],
                was_cut=max(len(ids), len(labels)) > length,
                corrupted=(corrupted[0][:length], corrupted[1][:length]) if has_marks else None,
            )
        )
    return result


_Row = tuple[list[int], list[int], tuple[list[bool], list[bool]]]
"""Tokens, labels, and what of both is marked; of pieces without marks, nothing that counts."""


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
) -> list[_Row]:
    profile = _profile(tokenizer)
    encoded = iter(piece_tokens(examples, tokenizer))
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
        rows.append((input_ids, labels, (corrupted, corrupted)))
    return rows


def _encode_pairs(
    examples: Sequence[Sequence[Piece]], tokenizer: PreTrainedTokenizerBase
) -> list[_Row]:
    profile = _profile(tokenizer)
    sides = []
    for pieces in examples:
        border = _last_answer(pieces)
        sides += [_joined(pieces[:border]), _joined(pieces[border:])]
    encoded = iter(piece_tokens(sides, tokenizer))
    before, after = [False] * len(profile.before), [False] * len(profile.after)
    rows = []
    for question, answer in zip(sides[::2], sides[1::2], strict=True):
        source, source_marks = _concatenated([next(encoded) for _ in question])
        labels, label_marks = _concatenated([next(encoded) for _ in answer])
        input_ids = [*profile.before, *source, *profile.after]
        rows.append((input_ids, labels, ([*before, *source_marks, *after], label_marks)))
    return rows


def _last_answer(pieces: Sequence[Piece]) -> int:
    """Return where the run of targets begins that ends the pieces."""
    at = len(pieces)
    while at and pieces[at - 1].is_target:
        at -= 1
    return at


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces with neighbours joined, but for literal ones."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and not joined[-1].is_literal and not piece.is_literal:
            last = joined[-1]
            marks = None if piece.marks is None else (last.marks or bytearray()) + piece.marks
            joined[-1] = Piece(last.text + piece.text, piece.is_target, marks=marks)
        else:
            joined.append(piece)
    return joined


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
