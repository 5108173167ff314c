"""Pieces of text -> token ids, each piece by itself and as it stands behind the one before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from lope_dist.core.errors import LopeError
from lope_dist.corpus.tokens.control import control_tokens
from lope_dist.corpus.tokens.prompts import Piece
from lope_dist.corpus.tokens.slow_text import tokenized_in_time

_LINE_BREAK = "\n"


def piece_tokens(
    examples: Sequence[Sequence[Piece]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[bool]]]:
    """Return the tokens of every piece and, where pieces have marks, which tokens are marked.

    What stands before a piece may decide its first tokens: SentencePiece puts a blank before any
    text that it is given, and a token may swallow the white space behind it. So a later piece is
    tokenized behind the control token that the one before ends with, else behind a line break,
    which is taken off again.

    Raises:
        SlowText: the tokenizer does not come to an end with a text.
    """
    ends = control_tokens(tokenizer, only_special=False)
    anchored = [
        ("" if before is None else _anchor(before, ends), piece)
        for example in examples
        for before, piece in zip((None, *example), example, strict=False)
    ]
    encoded = _tokens(tokenizer, anchored)
    for number, (anchor, piece) in enumerate(anchored):
        ids, is_marked = encoded[number]
        if piece.is_literal:
            encoded[number] = _literal_tokens(tokenizer, piece)
        elif anchor:
            before = _anchor_ids(tokenizer, anchor)
            if ids[: len(before)] == before:
                encoded[number] = ids[len(before) :], is_marked[len(before) :]
            else:
                (encoded[number],) = _tokens(tokenizer, [("", piece)])
    return encoded


def _anchor(before: Piece, ends: tuple[str, ...]) -> str:
    if before.is_literal or not before.text.endswith(ends):
        return _LINE_BREAK
    return next(end for end in ends if before.text.endswith(end))


def _literal_tokens(
    tokenizer: PreTrainedTokenizerBase, piece: Piece
) -> tuple[list[int], list[bool]]:
    """Return the tokens of a control token's text, none of them that token."""
    before, text = _anchor_ids(tokenizer, _LINE_BREAK), _LINE_BREAK + piece.text
    ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    if ids[: len(before)] == before:
        ids = ids[len(before) :]
    return ids, [piece.marks is not None and 1 in piece.marks] * len(ids)


@lru_cache(maxsize=256)
def _anchor_ids(tokenizer: PreTrainedTokenizerBase, anchor: str) -> list[int]:
    return _ids(tokenizer, [anchor])[0]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    encoded = tokenized_in_time(
        lambda texts: tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        ),
        texts,
    )
    return [list(ids) for ids in encoded["input_ids"]]


def _tokens(
    tokenizer: PreTrainedTokenizerBase, anchored: Sequence[tuple[str, Piece]]
) -> list[tuple[list[int], list[bool]]]:
    """Return tokens of pieces behind their anchors and, with marks, which are marked."""
    if not anchored:
        return []
    texts = [anchor + piece.text for anchor, piece in anchored]
    marks = [
        bytearray(len(anchor)) + piece.marks
        for anchor, piece in anchored
        if piece.marks is not None
    ]
    if not marks:
        return [(ids, []) for ids in _ids(tokenizer, texts)]
    if not tokenizer.is_fast:
        raise LopeError(
            "Which tokens noise changed needs a tokenizer that tells where its tokens come from, "
            f"and {type(tokenizer).__name__} does not; leave out loss_on and gradient_routing, "
            "or use a model with a fast tokenizer."
        )
    encoded = tokenized_in_time(
        lambda texts: tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        ),
        texts,
    )
    return [
        (list(ids), [of_text.find(1, start, end) >= 0 for start, end in spans])
        for ids, spans, of_text in zip(
            encoded["input_ids"], encoded["offset_mapping"], marks, strict=True
        )
    ]
