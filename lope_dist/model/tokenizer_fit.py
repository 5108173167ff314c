"""Whether a tokenizer's tokens all have a row of the model's embedding."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lope_dist.core.errors import LopeError
from lope_dist.model.probes import embedding_rows

_NO_TEXT = ("image", "video", "audio", "boi", "eoi", "boa", "eoa")
"""Kinds of special tokens that stand for no text; Gemma 3's text models lack rows for them."""
_SHOWN = 4


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Refuse a tokenizer that can make ids beyond the embedding.

    Args:
        tokenizer: The run's.
        model: With weights or on meta.
        name: `model.name_or_path`.

    Raises:
        LopeError: with some of the tokens.
    """
    rows = embedding_rows(model)
    spared = {
        str(token)
        for key, token in tokenizer.special_tokens_map.items()
        if key.startswith(_NO_TEXT)
    }
    beyond = sorted(
        (i, token)
        for token, i in tokenizer.get_vocab().items()
        if i >= rows and token not in spared
    )
    if not beyond:
        return
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    shown = ", ".join(f"{token!r} ({i})" for i, token in beyond[:_SHOWN])
    raise LopeError(
        f"The tokenizer of '{name}' can make ids that its model has no embedding for: {shown}"
        f"{more}, and the embedding has {rows} rows; take these tokens out of the tokenizer, or "
        "enlarge the model with resize_token_embeddings and save it."
    )
