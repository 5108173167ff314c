"""Layers that share a weight, or stand in two places, stay one."""

from typing import Any

import torch
from accelerate import init_empty_weights
from support.filling import fill
from support.tiny import small_llama
from transformers import LlamaForCausalLM

from lope_dist.config.model import ModelConfig
from lope_dist.model.frozen_layers import use_frozen_layers
from lope_dist.model.nf4 import NF4Linear, packed_weights
from lope_dist.model.quantization import quantization_of


def _tie(model: Any) -> None:
    """Give two layers one weight, and two blocks one layer."""
    first, second = model.model.layers
    second.self_attn.q_proj.weight = first.self_attn.q_proj.weight
    second.mlp = first.mlp


def test_shared_weights_and_shared_layers_are_packed_once() -> None:
    stock = small_llama().requires_grad_(False)
    config = ModelConfig(name_or_path="x", dtype="float32")
    with init_empty_weights():
        ours: Any = LlamaForCausalLM(stock.config).requires_grad_(False)
    for model in (stock, ours):
        _tie(model)
    use_frozen_layers(ours, config, None, torch.float32)
    first, second = (layer.self_attn.q_proj for layer in ours.model.layers)
    assert isinstance(first, NF4Linear)
    assert first is not second
    assert first.weight is second.weight
    assert packed_weights(first)["weight"] is packed_weights(second)["weight"]
    assert ours.model.layers[0].mlp.up_proj is ours.model.layers[1].mlp.up_proj
    assert isinstance(ours.model.layers[0].mlp.up_proj, NF4Linear)
    rounded = fill(ours, stock)
    assert len(rounded) == 7 + 3
    facts = quantization_of(ours, config)
    assert facts.quantized == sum(value.numel() for value in rounded.values())
    ids = torch.arange(20).view(2, 10)
    assert torch.equal(ours.eval()(ids).logits, stock(ids).logits)
