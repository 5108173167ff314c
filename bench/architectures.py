"""Tiny random models of the architectures that people fine-tune, for `bench/models.py`.

Each is of two layers or so with hidden size 64, and has what its family differs by: grouped
queries, windows, experts, state spaces, fused projections, tied heads. The vocabulary is that of
a tokenizer of bytes. A model is written with `save_pretrained`, so its file has the layout that
transformers gives it, which for most experts is one tensor an expert.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
VOCABULARY = 320
"""More than the tokenizer's 259 ids, as embeddings are often padded."""
_SPREAD = 0.15
"""Standard deviation of the weights: enough for logits to differ clearly."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        model_type: As transformers names it.
        sizes: Of its configuration.
        auto: The class that makes it.
        zero3: Whether it is trained on two ZeRO-3 ranks too.
    """

    model_type: str
    sizes: dict[str, Any] = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    zero3: bool = False

    @property
    def is_pair(self) -> bool:
        """Whether it is an encoder-decoder."""
        return self.auto == _PAIRS


_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
_FULL_HEADS = _TOKENS | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": _SPREAD,
}
_DENSE = _FULL_HEADS | {"num_key_value_heads": 2}
_HEADS_OF_16 = _DENSE | {"head_dim": 16}
_EXPERTS = _DENSE | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
_DEEPSEEK = _EXPERTS | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = _DEEPSEEK | {
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
_GPT2 = _TOKENS | {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "initializer_range": _SPREAD,
}
_WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA = _HEADS_OF_16 | _WINDOWS | {"query_pre_attn_scalar": 16}
_DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_SHARED_EXPERT = {"shared_expert_intermediate_size": 64}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
}
_T5 = _TOKENS | {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_BART = _TOKENS | {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 512,
    "decoder_start_token_id": 2,
    "init_std": _SPREAD,
    "forced_eos_token_id": None,
}
_PAIRS = "AutoModelForSeq2SeqLM"
_PICTURES = "AutoModelForImageTextToText"
_PARTS_OF_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}

ARCHITECTURES: dict[str, Architecture] = {
    # dense
    "llama": Architecture("llama", _DENSE, zero3=True),
    "llama_tied": Architecture("llama", _DENSE | {"tie_word_embeddings": True}),
    "llama_biases": Architecture("llama", _DENSE | {"attention_bias": True, "mlp_bias": True}),
    "llama_yarn": Architecture(
        "llama",
        _DENSE
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    "mistral": Architecture("mistral", _DENSE | {"sliding_window": None}),
    "mistral_window": Architecture("mistral", _DENSE | {"sliding_window": 16}),
    "ministral3": Architecture(
        "ministral3",
        _HEADS_OF_16
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
    "qwen2": Architecture("qwen2", _DENSE, zero3=True),
    "qwen2_window": Architecture(
        "qwen2",
        _DENSE | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen3": Architecture("qwen3", _DENSE | {"head_dim": 32}, zero3=True),
    "gemma": Architecture("gemma", _HEADS_OF_16),
    "gemma2": Architecture("gemma2", _GEMMA, zero3=True),
    "gemma3_text": Architecture("gemma3_text", _GEMMA, zero3=True),
    "gemma3n_text": Architecture(
        "gemma3n_text",
        _GEMMA
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
        _GEMMA
        | {
            "global_head_dim": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 0,
        },
    ),
    "vaultgemma": Architecture("vaultgemma", _GEMMA),
    "phi": Architecture("phi", _FULL_HEADS),
    "phi3": Architecture("phi3", _DENSE, zero3=True),
    "gpt2": Architecture("gpt2", _GPT2, zero3=True),
    "gpt_neo": Architecture(
        "gpt_neo",
        _TOKENS
        | {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 512,
            "initializer_range": _SPREAD,
        },
    ),
    "gpt_neox": Architecture("gpt_neox", _FULL_HEADS, zero3=True),
    "gptj": Architecture("gptj", _GPT2 | {"rotary_dim": 8}),
    "codegen": Architecture("codegen", _GPT2 | {"rotary_dim": 8}),
    "gpt_bigcode": Architecture("gpt_bigcode", _GPT2),
    "opt": Architecture(
        "opt",
        _TOKENS
        | {
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 64,
            "init_std": _SPREAD,
        },
    ),
    "bloom": Architecture(
        "bloom",
        _TOKENS | {"hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": _SPREAD},
    ),
    "mpt": Architecture(
        "mpt",
        _TOKENS
        | {
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 512,
            "initializer_range": _SPREAD,
        },
    ),
    "falcon": Architecture(
        "falcon",
        _TOKENS
        | {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "initializer_range": _SPREAD,
        },
        zero3=True,
    ),
    "stablelm": Architecture("stablelm", _DENSE),
    "cohere": Architecture("cohere", _DENSE | {"logit_scale": 0.5}),
    "cohere2": Architecture("cohere2", _DENSE | _WINDOWS | {"logit_scale": 0.5}),
    "olmo": Architecture("olmo", _DENSE),
    "olmo2": Architecture("olmo2", _DENSE),
    "olmo3": Architecture("olmo3", _DENSE | _WINDOWS),
    "granite": Architecture(
        "granite",
        _DENSE
        | {
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
        zero3=True,
    ),
    "starcoder2": Architecture("starcoder2", _DENSE),
    "glm": Architecture("glm", _HEADS_OF_16),
    "glm4": Architecture("glm4", _HEADS_OF_16),
    "ernie4_5": Architecture("ernie4_5", _HEADS_OF_16),
    "smollm3": Architecture("smollm3", _DENSE),
    "exaone4": Architecture("exaone4", _DENSE | _WINDOWS),
    "seed_oss": Architecture("seed_oss", _HEADS_OF_16),
    "nemotron": Architecture("nemotron", _DENSE),
    "helium": Architecture("helium", _HEADS_OF_16),
    "hunyuan_v1_dense": Architecture("hunyuan_v1_dense", _HEADS_OF_16),
    "arcee": Architecture("arcee", _DENSE),
    "persimmon": Architecture("persimmon", _FULL_HEADS),
    "diffllama": Architecture("diffllama", _DENSE),
    "apertus": Architecture("apertus", _DENSE),
    # experts
    "mixtral": Architecture("mixtral", _EXPERTS, zero3=True),
    "qwen2_moe": Architecture("qwen2_moe", _EXPERTS | _SHARED_EXPERT),
    "qwen3_moe": Architecture("qwen3_moe", _EXPERTS | {"head_dim": 16}, zero3=True),
    "olmoe": Architecture("olmoe", _EXPERTS),
    "flex_olmo": Architecture("flex_olmo", _EXPERTS),
    "phimoe": Architecture("phimoe", _EXPERTS),
    "granitemoe": Architecture("granitemoe", _EXPERTS),
    "deepseek_v2": Architecture("deepseek_v2", _LATENT | {"q_lora_rank": None}),
    "deepseek_v3": Architecture("deepseek_v3", _LATENT, zero3=True),
    "glm4_moe": Architecture("glm4_moe", _DEEPSEEK | {"head_dim": 16}),
    "dots1": Architecture("dots1", _DEEPSEEK),
    "ernie4_5_moe": Architecture(
        "ernie4_5_moe",
        _EXPERTS
        | {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
    ),
    "hunyuan_v1_moe": Architecture("hunyuan_v1_moe", _EXPERTS | {"head_dim": 16, "moe_topk": 2}),
    "minimax_m2": Architecture("minimax_m2", _EXPERTS | {"head_dim": 16}),
    "gpt_oss": Architecture("gpt_oss", _EXPERTS | _WINDOWS | {"head_dim": 16}, zero3=True),
    "llama4_text": Architecture(
        "llama4_text",
        _EXPERTS
        | {
            "head_dim": 16,
            "intermediate_size_mlp": 128,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
        },
    ),
    # state spaces, recurrences, convolutions
    "mamba": Architecture(
        "mamba", _TOKENS | {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    ),
    "mamba2": Architecture(
        "mamba2",
        _TOKENS
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
    "falcon_h1": Architecture("falcon_h1", _HEADS_OF_16 | _MAMBA2 | {"mamba_d_ssm": 128}),
    "bamba": Architecture("bamba", _DENSE | _MAMBA2 | {"attn_layer_indices": [1]}),
    "granitemoehybrid": Architecture(
        "granitemoehybrid",
        _EXPERTS
        | _MAMBA2
        | {"shared_intermediate_size": 64, "layer_types": ["mamba", "attention"]},
    ),
    "jamba": Architecture(
        "jamba",
        _EXPERTS
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
        "qwen3_next", _EXPERTS | _SHARED_EXPERT | _DELTA | {"head_dim": 16}, zero3=True
    ),
    "qwen3_5_text": Architecture("qwen3_5_text", _HEADS_OF_16 | _DELTA),
    "lfm2": Architecture("lfm2", _DENSE | {"layer_types": ["conv", "full_attention"]}),
    # encoder-decoders
    "t5": Architecture("t5", _T5, _PAIRS, zero3=True),
    "t5_gated": Architecture(
        "t5",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        _PAIRS,
    ),
    "mt5": Architecture(
        "mt5",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        _PAIRS,
    ),
    "bart": Architecture("bart", _BART, _PAIRS),
    "t5gemma": Architecture(
        "t5gemma",
        _TOKENS | {"encoder": _GEMMA, "decoder": _GEMMA | {"cross_attention_hidden_size": 64}},
        _PAIRS,
    ),
    "pegasus": Architecture("pegasus", _BART, _PAIRS),
    # texts of models that see
    "gemma3": Architecture(
        "gemma3",
        {
            "text_config": _GEMMA,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 300,
            "boi_token_index": 301,
            "eoi_token_index": 302,
        },
        _PICTURES,
    ),
    "qwen2_vl": Architecture(
        "qwen2_vl",
        {
            "text_config": _DENSE | {"rope_parameters": _PARTS_OF_ROPE},
            "vision_config": {
                "depth": 1,
                "embed_dim": 32,
                "hidden_size": 64,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 14,
            },
            "image_token_id": 300,
            "video_token_id": 301,
            "vision_start_token_id": 302,
            "vision_end_token_id": 303,
        },
        _PICTURES,
    ),
    "qwen2_5_vl": Architecture(
        "qwen2_5_vl",
        {
            "text_config": _DENSE | {"rope_parameters": _PARTS_OF_ROPE},
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "out_hidden_size": 64,
                "intermediate_size": 64,
                "num_heads": 2,
                "patch_size": 14,
            },
            "image_token_id": 300,
            "video_token_id": 301,
            "vision_start_token_id": 302,
            "vision_end_token_id": 303,
        },
        _PICTURES,
    ),
    "mistral3": Architecture(
        "mistral3",
        {
            "text_config": _HEADS_OF_16 | {"model_type": "mistral", "sliding_window": None},
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": 16,
                "image_size": 28,
                "patch_size": 14,
            },
            "image_token_index": 300,
        },
        _PICTURES,
    ),
}


def write_model(name: str, folder: Path) -> None:
    """Write a tiny random model with a tokenizer of bytes."""
    case = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.model_type, **case.sizes)
    model = getattr(transformers, case.auto).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that are not plainly one or zero
                parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer in _buffers_in_file(model):
            buffer.add_(0.1 * torch.rand_like(buffer))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are bytes behind `<pad>`, `<bos>` and `<eos>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, begin, end = SPECIAL_TOKENS
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end
    )


def _buffers_in_file(model: torch.nn.Module) -> list[torch.Tensor]:
    written = model.state_dict()
    return [b for name, b in model.named_buffers() if name in written and b.is_floating_point()]
