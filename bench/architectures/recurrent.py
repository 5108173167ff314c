"""State spaces, recurrences and convolutions, alone or beside attention."""

from __future__ import annotations

from architectures.shapes import (
    DELTA,
    DENSE,
    EXPERTS,
    HEADS_OF_16,
    MAMBA2,
    SHARED_EXPERT,
    TOKENS,
    Architecture,
)

MODELS = {
    "mamba": Architecture(
        "mamba", TOKENS | {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    ),
    "mamba2": Architecture(
        "mamba2",
        TOKENS
        | {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 16,
            "state_size": 16,
            "n_groups": 1,
            "expand": 2,
        },
        zero3=True,
    ),
    "falcon_h1": Architecture("falcon_h1", HEADS_OF_16 | MAMBA2 | {"mamba_d_ssm": 128}),
    "bamba": Architecture("bamba", DENSE | MAMBA2 | {"attn_layer_indices": [1]}),
    "granitemoehybrid": Architecture(
        "granitemoehybrid",
        EXPERTS | MAMBA2 | {"shared_intermediate_size": 64, "layer_types": ["mamba", "attention"]},
    ),
    "jamba": Architecture(
        "jamba",
        EXPERTS
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    "qwen3_next": Architecture(
        "qwen3_next", EXPERTS | SHARED_EXPERT | DELTA | {"head_dim": 16}, zero3=True
    ),
    "qwen3_5_text": Architecture("qwen3_5_text", HEADS_OF_16 | DELTA),
    "lfm2": Architecture("lfm2", DENSE | {"layer_types": ["conv", "full_attention"]}),
}
