"""Mixtures of experts."""

from __future__ import annotations

from architectures.shapes import DEEPSEEK, EXPERTS, LATENT, SHARED_EXPERT, WINDOWS, Architecture

MODELS = {
    "mixtral": Architecture("mixtral", EXPERTS, zero3=True),
    "qwen2_moe": Architecture("qwen2_moe", EXPERTS | SHARED_EXPERT),
    "qwen3_moe": Architecture("qwen3_moe", EXPERTS | {"head_dim": 16}, zero3=True),
    "olmoe": Architecture("olmoe", EXPERTS),
    "flex_olmo": Architecture("flex_olmo", EXPERTS),
    "phimoe": Architecture("phimoe", EXPERTS),
    "granitemoe": Architecture("granitemoe", EXPERTS),
    "deepseek_v2": Architecture("deepseek_v2", LATENT | {"q_lora_rank": None}),
    "deepseek_v3": Architecture("deepseek_v3", LATENT, zero3=True),
    "glm4_moe": Architecture("glm4_moe", DEEPSEEK | {"head_dim": 16}),
    "dots1": Architecture("dots1", DEEPSEEK),
    "ernie4_5_moe": Architecture(
        "ernie4_5_moe",
        EXPERTS
        | {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
    ),
    "hunyuan_v1_moe": Architecture("hunyuan_v1_moe", EXPERTS | {"head_dim": 16, "moe_topk": 2}),
    "minimax_m2": Architecture("minimax_m2", EXPERTS | {"head_dim": 16}),
    "gpt_oss": Architecture("gpt_oss", EXPERTS | WINDOWS | {"head_dim": 16}, zero3=True),
    "llama4_text": Architecture(
        "llama4_text",
        EXPERTS
        | {
            "head_dim": 16,
            "intermediate_size_mlp": 128,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
        },
    ),
}
