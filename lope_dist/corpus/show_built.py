"""Examples of a built corpus, clean beside noisy, decoded from what training reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase

from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import tokenizer_hash
from lope_dist.corpus.built import BuiltCorpus
from lope_dist.corpus.manifest import CLEAN, noisy_view
from lope_dist.corpus.shards import Row

_WORDS = re.compile(r"\s+|\S+")


def examples_of(
    corpus: BuiltCorpus, tokenizer: PreTrainedTokenizerBase, *, first: int, count: int, epoch: int
) -> list[dict[str, Any]]:
    """Return examples as text, with what the injected noise of an epoch changed, word by word.

    Raises:
        LopeError: an example or an epoch that the corpus does not have, or another tokenizer
            than it was built with.
    """
    fingerprint = corpus.manifest.fingerprint
    if not 0 <= first < fingerprint.num_examples:
        raise LopeError(
            f"There is no example {first}; the corpus has 0 to {fingerprint.num_examples - 1}."
        )
    if tokenizer_hash(tokenizer) != fingerprint.tokenizer:
        raise LopeError(
            "The model's tokenizer is another than the corpus was built with, so its tokens "
            "cannot be decoded; restore the model, or build again into another folder."
        )
    decode = _decoder(tokenizer, fingerprint.model == "encoder-decoder")
    ids = range(first, min(first + count, fingerprint.num_examples))
    cleans = corpus.rows(CLEAN, ids)
    noisies: list[Row] | list[None] = [None] * len(ids)
    view = noisy_view(epoch)
    if len(fingerprint.views) > 1:
        if view not in fingerprint.views:
            raise LopeError(
                f"There is no noisy view of epoch {epoch}; the corpus has 0 to "
                f"{len(fingerprint.views) - 2}."
            )
        noisies = corpus.rows(view, ids)
    return [
        _shown(clean, noisy, view, decode) for clean, noisy in zip(cleans, noisies, strict=True)
    ]


def changes(before: str, after: str) -> list[dict[str, str]]:
    """Return runs of text: `kind` is equal, insert, delete or replace; `before` and `after`."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        {"kind": kind, "before": "".join(old[a:b]), "after": "".join(new[c:d])}
        for kind, a, b, c, d in matcher.get_opcodes()
    ]


def _shown(
    clean: Row, noisy: Row | None, view: str, decode: Callable[[Row], str]
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "example_id": clean.tokens.example_id,
        "was_cut": clean.tokens.was_cut,
        "clean": decode(clean),
        "clean_hits": clean.hits,
    }
    if noisy is not None:
        text = decode(noisy)
        shown |= {"view": view, "noisy": text, "noisy_hits": noisy.hits}
        shown["changes"] = changes(shown["clean"], text)
    return shown


def _decoder(tokenizer: PreTrainedTokenizerBase, has_own_labels: bool) -> Callable[[Row], str]:
    def decode(row: Row) -> str:
        parts = [row.tokens.input_ids, *([row.tokens.labels] if has_own_labels else [])]
        texts = [tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts]
        return "\n".join(map(str, texts))

    return decode
