"""Encoder-decoders."""

from __future__ import annotations

from architectures.shapes import BART, GEMMA, PAIRS, T5, TOKENS, Architecture

MODELS = {
    "t5": Architecture("t5", T5, PAIRS, zero3=True),
    "t5_gated": Architecture(
        "t5",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        PAIRS,
    ),
    "mt5": Architecture(
        "mt5",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        PAIRS,
    ),
    "bart": Architecture("bart", BART, PAIRS),
    "t5gemma": Architecture(
        "t5gemma",
        TOKENS | {"encoder": GEMMA, "decoder": GEMMA | {"cross_attention_hidden_size": 64}},
        PAIRS,
    ),
    "pegasus": Architecture("pegasus", BART, PAIRS),
}
