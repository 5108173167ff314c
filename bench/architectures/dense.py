"""Decoders whose layers are all the same kind of dense."""

from __future__ import annotations

from architectures.shapes import (
    DENSE,
    FULL_HEADS,
    GEMMA,
    GPT2,
    HEADS_OF_16,
    SPREAD,
    TOKENS,
    VOCABULARY,
    WINDOWS,
    Architecture,
)

MODELS = {
    "llama": Architecture("llama", DENSE, zero3=True),
    "llama_tied": Architecture("llama", DENSE | {"tie_word_embeddings": True}),
    "llama_biases": Architecture("llama", DENSE | {"attention_bias": True, "mlp_bias": True}),
    "llama_yarn": Architecture(
        "llama",
        DENSE
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    "mistral": Architecture("mistral", DENSE | {"sliding_window": None}),
    "mistral_window": Architecture("mistral", DENSE | {"sliding_window": 16}),
    "ministral3": Architecture(
        "ministral3",
        HEADS_OF_16
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "llama_4_scaling_beta": 0.1,
            }
        },
    ),
    "qwen2": Architecture("qwen2", DENSE, zero3=True),
    "qwen2_window": Architecture(
        "qwen2",
        DENSE | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen3": Architecture("qwen3", DENSE | {"head_dim": 32}, zero3=True),
    "gemma": Architecture("gemma", HEADS_OF_16),
    "gemma2": Architecture("gemma2", GEMMA, zero3=True),
    "gemma3_text": Architecture("gemma3_text", GEMMA, zero3=True),
    "gemma3n_text": Architecture(
        "gemma3n_text",
        GEMMA
        | {
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 0,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0, 0.0],
            "altup_num_inputs": 2,
        },
    ),
    "gemma4_text": Architecture(
        "gemma4_text",
        GEMMA
        | {
            "global_head_dim": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 0,
        },
    ),
    "vaultgemma": Architecture("vaultgemma", GEMMA),
    "phi": Architecture("phi", FULL_HEADS),
    "phi3": Architecture("phi3", DENSE, zero3=True),
    "gpt2": Architecture("gpt2", GPT2, zero3=True),
    "gpt_neo": Architecture(
        "gpt_neo",
        TOKENS
        | {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 512,
            "initializer_range": SPREAD,
        },
    ),
    "gpt_neox": Architecture("gpt_neox", FULL_HEADS, zero3=True),
    "gptj": Architecture("gptj", GPT2 | {"rotary_dim": 8}),
    "codegen": Architecture("codegen", GPT2 | {"rotary_dim": 8}),
    "gpt_bigcode": Architecture("gpt_bigcode", GPT2),
    "opt": Architecture(
        "opt",
        TOKENS
        | {
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 64,
            "init_std": SPREAD,
        },
    ),
    "bloom": Architecture(
        "bloom",
        TOKENS | {"hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": SPREAD},
    ),
    "mpt": Architecture(
        "mpt",
        TOKENS
        | {
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 512,
            "initializer_range": SPREAD,
        },
    ),
    "falcon": Architecture(
        "falcon",
        TOKENS
        | {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "initializer_range": SPREAD,
        },
        zero3=True,
    ),
    "stablelm": Architecture("stablelm", DENSE),
    "cohere": Architecture("cohere", DENSE | {"logit_scale": 0.5}),
    "cohere2": Architecture("cohere2", DENSE | WINDOWS | {"logit_scale": 0.5}),
    "olmo": Architecture("olmo", DENSE),
    "olmo2": Architecture("olmo2", DENSE),
    "olmo3": Architecture("olmo3", DENSE | WINDOWS),
    "granite": Architecture(
        "granite",
        DENSE
        | {
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
        zero3=True,
    ),
    "starcoder2": Architecture("starcoder2", DENSE),
    "glm": Architecture("glm", HEADS_OF_16),
    "glm4": Architecture("glm4", HEADS_OF_16),
    "ernie4_5": Architecture("ernie4_5", HEADS_OF_16),
    "smollm3": Architecture("smollm3", DENSE),
    "exaone4": Architecture("exaone4", DENSE | WINDOWS),
    "seed_oss": Architecture("seed_oss", HEADS_OF_16),
    "nemotron": Architecture("nemotron", DENSE),
    "helium": Architecture("helium", HEADS_OF_16),
    "hunyuan_v1_dense": Architecture("hunyuan_v1_dense", HEADS_OF_16),
    "arcee": Architecture("arcee", DENSE),
    "persimmon": Architecture("persimmon", FULL_HEADS),
    "diffllama": Architecture("diffllama", DENSE),
    "apertus": Architecture("apertus", DENSE),
}
