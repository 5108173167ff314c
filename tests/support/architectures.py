"""Tiny random models of several architectures, in folders with a byte tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny import save_byte_tokenizer

_SHAPE: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
    "initializer_range": 0.2,
}
_SSM = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}
_GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
_TEXT = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 14}
_IMAGES = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": _SHAPE,
    "mistral": {**_SHAPE, "sliding_window": 16},
    "gemma2": {**_SHAPE, **_GEMMA},
    "gemma3_text": {
        **_SHAPE,
        **_GEMMA,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "granite": {**_SHAPE, "logits_scaling": 2.0},
    "cohere": {**_SHAPE, "logit_scale": 0.5},
    "phi3": _SHAPE,
    "qwen3_5_text": {**_SHAPE, **_SSM},
    "gpt2": {
        "vocab_size": 258,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "eos_token_id": 256,
        "bos_token_id": None,
        "initializer_range": 0.2,
    },
    "opt": {
        **{key: _SHAPE[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")},
        "ffn_dim": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "word_embed_proj_dim": 32,
        "eos_token_id": 256,
        "pad_token_id": 257,
        "bos_token_id": None,
        "init_std": 0.2,
        "layerdrop": 0.3,
    },
    "mamba2": {
        "vocab_size": 258,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 8,
        "n_groups": 1,
        "expand": 2,
        "eos_token_id": 256,
        "bos_token_id": None,
        "pad_token_id": 257,
    },
    "bart": {
        "vocab_size": 258,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 512,
        "decoder_start_token_id": 257,
        "pad_token_id": 257,
        "eos_token_id": 256,
        "bos_token_id": 256,
        "forced_eos_token_id": None,
        "init_std": 0.2,
    },
    "qwen2_vl": {"text_config": {**_SHAPE, **_TEXT}, "vision_config": _VISION, **_IMAGES},
    "gemma3": {
        "text_config": {**_SHAPE, **_GEMMA},
        "vision_config": {**_SHAPE, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "image_token_index": 5,
    },
    "mpt": {
        "vocab_size": 258,
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "max_seq_len": 512,
        "initializer_range": 0.2,
    },
    "falcon": {
        **{key: value for key, value in _SHAPE.items() if key != "num_key_value_heads"},
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
    },
    "llama4_text": {
        **_SHAPE,
        "head_dim": 8,
        "intermediate_size_mlp": 64,
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
    },
    "deepseek_v3": {
        **_SHAPE,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "gemma3n_text": {
        **_SHAPE,
        **_GEMMA,
        "vocab_size_per_layer_input": 258,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0, 0.0],
        "altup_num_inputs": 2,
    },
}


def tiny_arch(model_type: str, **changes: Any) -> Any:
    """Return the configuration of a tiny model."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **SHAPES[model_type] | changes)


def save_tiny(folder: Path, model_type: str, **changes: Any) -> Path:
    """Write a random model of a type in float32 safetensors, with the byte tokenizer."""
    import torch

    from lope_dist.model.auto_class import auto_class

    arch = tiny_arch(model_type, **changes)
    torch.manual_seed(0)
    auto_class(arch, remote=False).from_config(arch, dtype=torch.float32).save_pretrained(folder)
    save_byte_tokenizer(folder)
    return folder
