"""Models of random NF4 weights made where they are used: nothing is read, nothing downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from lope_dist.config.model import ModelConfig
from lope_dist.model.build import build_meta_model
from lope_dist.model.nf4 import (
    NESTED_BLOCK,
    NestedScales,
    PackedWeight,
    packed_weights,
    quantize_scales,
)
from lope_dist.model.nf4_layout import BLOCK

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 1000,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "tinyllama-1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "llama2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "llama3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "tiny-qwen3": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 1000,
    },
}


def architecture(shape: str) -> PretrainedConfig:
    """Return the shape as a Llama, or what its name says, with room for 32k tokens."""
    kind = Qwen3Config if "qwen3" in shape else LlamaConfig
    return kind(**SHAPES[shape], max_position_embeddings=1 << 15)


def linear_parameters(shape: str) -> int:
    """Return N: the weights that a token is multiplied with."""
    s = SHAPES[shape]
    head = s["hidden_size"] // s["num_attention_heads"]
    attention = 2 * s["hidden_size"] ** 2 + 2 * s["hidden_size"] * head * s["num_key_value_heads"]
    layer = attention + 3 * s["hidden_size"] * s["intermediate_size"]
    return s["num_hidden_layers"] * layer + s["hidden_size"] * s["vocab_size"]


def random_model(shape: str, device: torch.device, checkpointing: bool) -> PreTrainedModel:
    """Return our model of this shape: random NF4 codes and scales, no quantizing."""
    config = ModelConfig(name_or_path=shape, gradient_checkpointing=checkpointing)
    model = build_meta_model(config, architecture(shape))
    for part in model.modules():
        for name, old in list(part.named_parameters(recurse=False)):
            if name in packed_weights(part):
                value = _packed(packed_weights(part)[name], device)
            elif old.dim() == 1:
                value = torch.ones(old.shape, dtype=old.dtype, device=device)
            else:
                value = torch.randn(old.shape, device=device).mul_(0.02).to(old.dtype)
            setattr(part, name, nn.Parameter(value, requires_grad=False))
    nn.Module.to(model, device)  # buffers; the class's own has no usable type
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.enable_input_require_grads()
    return model


def _packed(weight: PackedWeight, device: torch.device) -> torch.Tensor:
    layout = weight.layout
    data = torch.empty(layout.num_elements, dtype=layout.storage, device=device)
    data.view(torch.uint8).random_(0, 256)
    _, like = quantize_scales(torch.rand(BLOCK, device=device))
    size = -(-layout.num_blocks // NESTED_BLOCK)
    absmax = torch.full((size,), 0.01, device=device)
    offset = torch.full((), 0.03, device=device)
    weight.nested_scales = NestedScales(absmax, like.code, offset)
    return data


def random_bitsandbytes(shape: str, device: torch.device) -> PreTrainedModel:
    """Return the peers' model of this shape: bitsandbytes' own layers, quantized here."""
    import bitsandbytes as bnb
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(architecture(shape), dtype=torch.bfloat16)
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or name == "lm_head":
            continue
        own = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
            device="meta",
        )
        weight = torch.randn(layer.out_features, layer.in_features, device=device).mul_(0.02)
        packed: Any = bnb.nn.Params4bit  # its own signature is *args
        own.weight = packed(
            weight.bfloat16(), requires_grad=False, quant_type="nf4", module=own
        ).to(device)
        model.set_submodule(name, own)
    for part in model.modules():
        for name, old in list(part.named_parameters(recurse=False)):
            if old.is_meta:
                value = torch.randn(old.shape, device=device).mul_(0.02).bfloat16()
                value = torch.ones_like(value) if old.dim() == 1 else value
                setattr(part, name, nn.Parameter(value, requires_grad=False))
    model.to(device)
    model.is_loaded_in_4bit = True
    return model
