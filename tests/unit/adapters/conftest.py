"""Tiny random models with adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tiny import small_llama
from torch import Tensor, nn
from transformers import LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.lope import LopeLinear
from lope_dist.config.adapter import AdapterConfig
from lope_dist.core.seeds import token_keys


@pytest.fixture(autouse=True)
def _fixed_torch_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A random Llama of two layers."""
    return small_llama()


@pytest.fixture
def t5() -> T5ForConditionalGeneration:
    """A random T5 of two layers, no dropout of its own."""
    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        vocab_size=60,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def keys_of() -> Callable[[list[int], int], Tensor]:
    """Return a function: lengths of examples 0, 1, ... -> (N, padded) keys, 0 on padding."""

    def make(lengths: list[int], padded: int) -> Tensor:
        keys = torch.zeros(len(lengths), padded, dtype=torch.int32)
        for i, length in enumerate(lengths):
            keys[i, :length] = torch.from_numpy(token_keys(0, "tokens", 0, i, length))
        return keys

    return make


@pytest.fixture
def fill_experts() -> Callable[[nn.Module], None]:
    """Return a function that gives every B random values, as if trained."""
    return _fill_experts


def _fill_experts(module: nn.Module, std: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lope.B." in name:
                parameter.normal_(0.0, std, generator=generator)


@pytest.fixture
def make_layer() -> Callable[..., LopeLinear]:
    """Return a builder of a filled layer, 12 -> 10, from settings of `AdapterConfig`."""

    def make(base: nn.Linear | None = None, **settings: object) -> LopeLinear:
        config = AdapterConfig.model_validate(
            {"dropout": 0.0, "compensation": {"mode": "conserve"}, **settings}
        )
        context = AdapterContext(
            num_normal=config.num_normal,
            num_poison=config.num_poison,
            compensation=config.compensation,
        )
        base = base or nn.Linear(12, 10)
        base.requires_grad_(False)
        layer = LopeLinear(base, config, context, name="l.q_proj", stream="decoder", seed=3)
        with torch.no_grad():
            for name, value in layer.initial_values().items():
                layer.get_parameter(name).copy_(value)
        _fill_experts(layer)
        return layer

    return make
