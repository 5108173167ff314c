"""Pieces of text -> token ids and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from lope_dist.core.errors import LopeError
from lope_dist.corpus.marking import piece_marks
from lope_dist.corpus.prompts import Piece, render
from lope_dist.corpus.turns import Example
from lope_dist.corpus.views import TextMarks
from lope_dist.noise.marks import Marks

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
    corrupted: tuple[list[bool], list[bool]] | None = None
    """Whether a token lies in a word that noise changed, for each of ``input_ids`` and of
    ``labels``; None where nobody asked."""


def encode(
    examples: Sequence[Example],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    is_encoder_decoder: bool,
    marks: Sequence[TextMarks | None] | None = None,
) -> list[Tokenized]:
    """Return the tokens of examples, cut at ``max_length``, labels only on their targets.

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
    if not examples:
        return []
    pieces = [render(example, template, tokenizer) for example in examples]
    of_pieces = None
    if marks is not None:
        of_pieces = [
            piece_marks(example, own, changed or {}, template, tokenizer)
            for example, own, changed in zip(examples, pieces, marks, strict=True)
        ]
    if is_encoder_decoder:
        rows = _encode_pairs(pieces, tokenizer, of_pieces)
    else:
        rows = _encode_rows(pieces, template, tokenizer, of_pieces)
    return [
        Tokenized(
            example.id,
            ids[:max_length],
            labels[:max_length],
            was_cut=max(len(ids), len(labels)) > max_length,
            corrupted=told and (told[0][:max_length], told[1][:max_length]),
        )
        for example, (ids, labels, told) in zip(examples, rows, strict=True)
    ]


_Told = tuple[list[bool], list[bool]] | None
_PieceMarks = Sequence[Sequence[Marks]] | None


@dataclass(frozen=True)
class _Profile:
    """What a tokenizer adds by itself before and after a text; the tokens of the anchor."""

    before: list[int]
    after: list[int]
    anchor: list[int]


def _encode_rows(
    examples: Sequence[Sequence[Piece]],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    marks: _PieceMarks,
) -> list[tuple[list[int], list[int], _Told]]:
    profile = _profile(tokenizer)
    # SentencePiece puts a blank before any text that it is given; a line break in front, taken
    # off again, lets a later piece be tokenized as the continuation that it is.
    texts = [
        piece.text if number == 0 else _ANCHOR + piece.text
        for pieces in examples
        for number, piece in enumerate(pieces)
    ]
    of_texts = None
    if marks is not None:
        of_texts = [
            own if number == 0 else bytearray(len(_ANCHOR)) + own
            for pieces in marks
            for number, own in enumerate(pieces)
        ]
    encoded = iter(_tokens(tokenizer, texts, of_texts))
    rows = []
    for index, pieces in enumerate(examples):
        # A chat template writes the begin-of-sequence token itself; plain text is in no template.
        is_in_chat = template == "chat" and not pieces[0].is_target
        input_ids = [] if is_in_chat else list(profile.before)
        labels = [IGNORED] * len(input_ids)
        corrupted = [False] * len(input_ids)
        for number, piece in enumerate(pieces):
            ids, told = next(encoded)
            if number > 0:
                anchor = profile.anchor
                if ids[: len(anchor)] == anchor:
                    ids, told = ids[len(anchor) :], told[len(anchor) :]
                else:
                    own = None if marks is None else [marks[index][number]]
                    ((ids, told),) = _tokens(tokenizer, [piece.text], own)
            input_ids += ids
            labels += ids if piece.is_target else [IGNORED] * len(ids)
            corrupted += told
        rows.append((input_ids, labels, None if marks is None else (corrupted, corrupted)))
    return rows


def _encode_pairs(
    examples: Sequence[Sequence[Piece]], tokenizer: PreTrainedTokenizerBase, marks: _PieceMarks
) -> list[tuple[list[int], list[int], _Told]]:
    profile = _profile(tokenizer)
    prompts = ["".join(piece.text for piece in pieces[:-1]) for pieces in examples]
    answers = [pieces[-1].text for pieces in examples]
    of_prompts = of_answers = None
    if marks is not None:
        of_prompts = [bytearray().join(own[:-1]) for own in marks]
        of_answers = [own[-1] for own in marks]
    sources = _tokens(tokenizer, prompts, of_prompts)
    targets = _tokens(tokenizer, answers, of_answers)
    before, after = [False] * len(profile.before), [False] * len(profile.after)
    return [
        (
            [*profile.before, *source, *profile.after],
            labels,
            None if marks is None else ([*before, *source_told, *after], labels_told),
        )
        for (source, source_told), (labels, labels_told) in zip(sources, targets, strict=True)
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


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], marks: Sequence[Marks] | None
) -> list[tuple[list[int], list[bool]]]:
    """Return each text's tokens and, with its marks, whether a token has a marked character."""
    if marks is None:
        return [(ids, []) for ids in _ids(tokenizer, texts)]
    if not tokenizer.is_fast:
        raise LopeError(
            "Which tokens noise changed needs a tokenizer that tells where its tokens come from, "
            f"and {type(tokenizer).__name__} does not; leave out loss_on, router_supervision and "
            "gradient_routing, or use a model with a fast tokenizer."
        )
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return [
        (list(ids), [own.find(1, start, end) >= 0 for start, end in spans])
        for ids, spans, own in zip(
            encoded["input_ids"], encoded["offset_mapping"], marks, strict=True
        )
    ]
