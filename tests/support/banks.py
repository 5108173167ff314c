"""Tiny random models with expert banks, `Conv1D` and linear layers of another class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny import save_byte_tokenizer

_SIZES = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
}
_FUSED = {
    "vocab_size": 258,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
}
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": _SIZES | {"num_local_experts": 4},
    "qwen3_moe": _SIZES | {"num_experts": 4, "moe_intermediate_size": 64},
    "gpt_oss": _SIZES | {"num_local_experts": 4},
    "llama4_text": _SIZES
    | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 128},
    "gpt2": _FUSED | {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "falcon": _FUSED | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}
LISTS: dict[str, dict[str, Any]] = {
    "switch_transformers": {
        "vocab_size": 258,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_decoder_layers": 2,
        "num_sparse_decoder_layers": 1,
        "num_heads": 4,
        "num_experts": 8,
        "expert_capacity": 512,
        "router_jitter_noise": 0.0,
        "initializer_factor": 1.0,
        "decoder_start_token_id": 257,
        "eos_token_id": 256,
        "pad_token_id": 257,
    },
}
"""An encoder-decoder whose experts are a list of modules."""
TARGETS = {"gpt2": ["c_attn"], "falcon": ["query_key_value"], "switch_transformers": ["q", "v"]}
"""Layers to adapt, where they are not `q_proj` and `v_proj`."""


def save_model(folder: Path, model_type: str, **changes: Any) -> None:
    """Write a random model in float32 as transformers writes it, with the byte tokenizer."""
    import torch
    from transformers import AutoConfig

    from lope_dist.model.auto_class import auto_class

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(MODELS | LISTS)[model_type] | changes)
    auto = auto_class(config, remote=False)
    auto.from_config(config, dtype=torch.float32).save_pretrained(folder)
    save_byte_tokenizer(folder)
