"""Examples as training reads them: tokens as text, what is learnt and what noise changed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import tokenizer_hash
from lope_dist.corpus.built.corpus import BuiltCorpus
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import CLEAN, FreshTokens, Row, noisy_view

_WORDS = re.compile(r"\s+|\S+")
_LEARNT, _NOISY, _END = "\033[1;32m", "\033[4m", "\033[0m"


def show_rows(
    config: RunConfig,
    source: ExampleSource,
    form: Form,
    *,
    first: int,
    count: int,
    stage: str | None = None,
) -> list[dict[str, Any]]:
    """Return examples unpacked, as JSON.

    The noise in them is that of the data set and, with a ``stage`` that injects text noise, what
    it injects in its first epoch.

    Raises:
        LopeError: an example or a stage that is not there.
    """
    if not 0 <= first < len(source):
        raise LopeError(f"There is no example {first}; the data have 0 to {len(source) - 1}.")
    if stage is not None and stage not in config.train.stages:
        raise LopeError(f"There is no stage '{stage}'; there are {', '.join(config.train.stages)}.")
    injects = stage is not None and config.train.stages[stage].noise in ("text", "hybrid")
    injects = injects and config.noise.text.is_on
    has_marks = (config.noise.data.is_on or injects) and bool(form.tokenizer.is_fast)
    tokens = FreshTokens(source, form, config.noise, config.seed, has_marks)
    ids = range(first, min(first + count, len(source)))
    rows = tokens.rows(noisy_view(0) if injects else CLEAN, ids)
    return [
        _shown_example(*source.location(index), row.tokens, form)
        for index, row in zip(ids, rows, strict=True)
    ]


def examples_of(
    corpus: BuiltCorpus, tokenizer: PreTrainedTokenizerBase, *, first: int, count: int, epoch: int
) -> list[dict[str, Any]]:
    """Return examples of a built corpus, clean beside noisy, decoded from what training reads.

    ``changes`` is what the injected noise of an epoch changed, word by word.

    Raises:
        LopeError: an example or an epoch that the corpus does not have, or another tokenizer
            than it was built with.
    """
    fingerprint = corpus.manifest.fingerprint
    size, views, view = fingerprint.num_examples, fingerprint.views, noisy_view(epoch)
    if not 0 <= first < size:
        raise LopeError(f"There is no example {first}; the corpus has 0 to {size - 1}.")
    if tokenizer_hash(tokenizer) != fingerprint.tokenizer:
        raise LopeError(
            "The model's tokenizer is another than the corpus was built with, so its tokens "
            "cannot be decoded; restore the model, or build again into another folder."
        )
    if len(views) > 1 and view not in views:
        raise LopeError(
            f"There is no noisy view of epoch {epoch}; the corpus has 0 to {len(views) - 2}."
        )

    def decoded(row: Row) -> str:
        labels = [row.tokens.labels] if fingerprint.model == "encoder-decoder" else []
        return "\n".join(_text(tokenizer, part) for part in (row.tokens.input_ids, *labels))

    ids = range(first, min(first + count, size))
    examples = [
        {
            "example_id": row.tokens.example_id,
            "was_cut": row.tokens.was_cut,
            "clean": decoded(row),
            "clean_hits": row.hits,
        }
        for row in corpus.rows(CLEAN, ids)
    ]
    for example, row in zip(
        examples, corpus.rows(view, ids) if len(views) > 1 else [], strict=False
    ):
        text = decoded(row)
        example |= {"view": view, "noisy": text, "noisy_hits": row.hits}
        example["changes"] = changes(example["clean"], text)
    return examples


def changes(before: str, after: str) -> list[dict[str, str]]:
    """Return runs of text: `kind` is equal, insert, delete or replace; `before` and `after`."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        {"kind": kind, "before": "".join(old[a:b]), "after": "".join(new[c:d])}
        for kind, a, b, c, d in matcher.get_opcodes()
    ]


def example_lines(
    example: dict[str, Any], *, limit: int | None = None, colours: bool = False
) -> list[str]:
    """Return a shown example as lines of text: what is learnt between ⟦ and ⟧, or in green."""
    target = f"{example['target_tokens']:,} of {example['tokens']:,} tokens are learnt"
    cut = ", cut" if example["cut"] else ""
    text = "".join(_marked(piece, colours) for piece in example["pieces"])
    if limit is not None and len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    how = "in green" if colours else "between ⟦ and ⟧"
    head = f"{example['source']}, row {example['row']}: {target}{cut}, {how}"
    return [f"{head}:", *(f"  | {line}" for line in text.split("\n"))]


def _marked(piece: dict[str, Any], colours: bool) -> str:
    text = piece["text"]
    if colours:
        style = _LEARNT * piece["learnt"] + _NOISY * piece["noisy"]
        return f"{style}{text}{_END}" if style else text
    text = f"~{text}~" if piece["noisy"] else text
    return f"⟦{text}⟧" if piece["learnt"] else text


def _shown_example(file: str, number: int, tokens: Tokenized, form: Form) -> dict[str, Any]:
    read, written = tokens.input_ids, tokens.labels
    noisy = tokens.corrupted or ([False] * len(read), [False] * len(written))
    if form.is_encoder_decoder:
        ids = [*read, *written]
        learnt = [False] * len(read) + [label != IGNORED for label in written]
        is_noisy = [*noisy[0], *noisy[1]]
    else:
        # Nothing before a first token could predict it.
        ids, is_noisy = read, noisy[0]
        learnt = [i > 0 and label != IGNORED for i, label in enumerate(written)]
    return {
        "source": file,
        "row": number,
        "tokens": len(ids),
        "target_tokens": sum(learnt),
        "cut": tokens.was_cut,
        "pieces": _pieces(form.tokenizer, ids, learnt, is_noisy),
    }


def _pieces(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    learnt: Sequence[bool],
    noisy: Sequence[bool],
) -> list[dict[str, Any]]:
    """Return runs of tokens of one kind as text; together they are the text of all tokens."""
    pieces: list[dict[str, Any]] = []
    end, text_before = 0, ""
    for (is_learnt, is_noisy), run in groupby(zip(learnt, noisy, strict=True)):
        end += len(list(run))
        text_so_far = _text(tokenizer, ids[:end])
        # Of all so far, for SentencePiece drops the blank before a text, and a character may be
        # of several tokens.
        if not text_so_far.startswith(text_before):
            text_before = ""
            text_so_far = _text(tokenizer, ids[end - 1 : end])
        text = text_so_far[len(text_before) :]
        pieces.append({"text": text, "learnt": bool(is_learnt), "noisy": bool(is_noisy)})
        text_before = text_so_far
    return pieces


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
