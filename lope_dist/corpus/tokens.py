"""Pieces of text -> token ids and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from lope_dist.corpus.prompts import Piece, render
from lope_dist.corpus.turns import Example

IGNORED = -100
"""Label of a token that is no target."""
_ANCHOR = "\n"


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


def encode(
    examples: Sequence[Example],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    is_encoder_decoder: bool,
) -> list[Tokenized]:
    """Return the tokens of examples, cut at ``max_length``, labels only on their targets.

    Each piece is tokenized by itself: no token spans a border between prompt and answer, and
    the prompt has the same tokens as at inference. An example whose answer lies wholly behind
    the cut is kept with no target, so that the order of the data does not depend on lengths.

    An encoder-decoder model learns the last answer alone; all before it is its input.

    The tokenizer is called once for all of them, for a call costs as much as a short text.
    What one example becomes does not depend on the others.
    """
    if not examples:
        return []
    pieces = [render(example, template, tokenizer) for example in examples]
    if is_encoder_decoder:
        rows = _encode_pairs(pieces, tokenizer)
    else:
        rows = _encode_rows(pieces, template, tokenizer)
    return [
        Tokenized(
            example.id,
            ids[:max_length],
            labels[:max_length],
            was_cut=max(len(ids), len(labels)) > max_length,
        )
        for example, (ids, labels) in zip(examples, rows, strict=True)
    ]


@dataclass(frozen=True)
class _Profile:
    """What a tokenizer adds by itself before and after a text; the tokens of the anchor."""

    before: list[int]
    after: list[int]
    anchor: list[int]


def _encode_rows(
    examples: Sequence[Sequence[Piece]], template: str, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[int]]]:
    profile = _profile(tokenizer)
    # SentencePiece puts a blank before any text that it is given; a line break in front, taken
    # off again, lets a later piece be tokenized as the continuation that it is.
    texts = [
        piece.text if number == 0 else _ANCHOR + piece.text
        for pieces in examples
        for number, piece in enumerate(pieces)
    ]
    encoded = iter(_ids(tokenizer, texts))
    rows = []
    for pieces in examples:
        # A chat template writes the begin-of-sequence token itself; plain text is in no template.
        is_in_chat = template == "chat" and not pieces[0].is_target
        input_ids = [] if is_in_chat else list(profile.before)
        labels = [IGNORED] * len(input_ids)
        for number, piece in enumerate(pieces):
            ids = next(encoded)
            if number > 0:
                anchor = profile.anchor
                is_apart = ids[: len(anchor)] == anchor
                ids = ids[len(anchor) :] if is_apart else _ids(tokenizer, [piece.text])[0]
            input_ids += ids
            labels += ids if piece.is_target else [IGNORED] * len(ids)
        rows.append((input_ids, labels))
    return rows


def _encode_pairs(
    examples: Sequence[Sequence[Piece]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[int]]]:
    profile = _profile(tokenizer)
    prompts = ["".join(piece.text for piece in pieces[:-1]) for pieces in examples]
    sources = _ids(tokenizer, prompts)
    targets = _ids(tokenizer, [pieces[-1].text for pieces in examples])
    return [
        ([*profile.before, *source, *profile.after], labels)
        for source, labels in zip(sources, targets, strict=True)
    ]


@lru_cache(maxsize=8)
def _profile(tokenizer: PreTrainedTokenizerBase) -> _Profile:
    bare, anchor = _ids(tokenizer, ["a", _ANCHOR])
    whole = list(tokenizer("a")["input_ids"])
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return _Profile(whole[:start], whole[start + len(bare) :], anchor)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]
