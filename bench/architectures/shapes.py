"""Sizes that architectures share, and what a row of the table is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 320
"""More than the tokenizer's 259 ids, as embeddings are often padded."""
SPREAD = 0.15
"""Standard deviation of the weights: enough for logits to differ clearly."""
PAIRS, PICTURES = "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"


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
        return self.auto == PAIRS


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
FULL_HEADS = TOKENS | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": SPREAD,
}
DENSE = FULL_HEADS | {"num_key_value_heads": 2}
HEADS_OF_16 = DENSE | {"head_dim": 16}
EXPERTS = DENSE | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
DEEPSEEK = EXPERTS | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = DEEPSEEK | {
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
GPT2 = TOKENS | {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "initializer_range": SPREAD,
}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA = HEADS_OF_16 | WINDOWS | {"query_pre_attn_scalar": 16}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
SHARED_EXPERT = {"shared_expert_intermediate_size": 64}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
}
T5 = TOKENS | {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART = TOKENS | {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 512,
    "decoder_start_token_id": 2,
    "init_std": SPREAD,
    "forced_eos_token_id": None,
}
PARTS_OF_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
