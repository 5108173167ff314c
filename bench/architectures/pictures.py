"""Models that see; their text is trained."""

from __future__ import annotations

from architectures.shapes import DENSE, GEMMA, HEADS_OF_16, PARTS_OF_ROPE, PICTURES, Architecture

MODELS = {
    "gemma3": Architecture(
        "gemma3",
        {
            "text_config": GEMMA,
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
        PICTURES,
    ),
    "qwen2_vl": Architecture(
        "qwen2_vl",
        {
            "text_config": DENSE | {"rope_parameters": PARTS_OF_ROPE},
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
        PICTURES,
    ),
    "qwen2_5_vl": Architecture(
        "qwen2_5_vl",
        {
            "text_config": DENSE | {"rope_parameters": PARTS_OF_ROPE},
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
        PICTURES,
    ),
    "mistral3": Architecture(
        "mistral3",
        {
            "text_config": HEADS_OF_16 | {"model_type": "mistral", "sliding_window": None},
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
        PICTURES,
    ),
}
