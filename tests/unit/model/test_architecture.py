"""A stated architecture beside a folder's own `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import architecture, build_meta_model

SIZES = {"vocab_size": 64, "hidden_size": 8192, "num_attention_heads": 64, "num_hidden_layers": 1}
EXPERTS = {"intermediate_size": 16384, "num_local_experts": 4096, "head_dim": 128}
TEXT = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2}
GEMMA = {"model_type": "gemma3", "text_config": TEXT, "mm_tokens_per_image": 4}


@pytest.fixture
def stated(tmp_path: Path):
    """Return a function: an architecture stated -> that of a folder with Gemma's `config.json`."""
    (tmp_path / "config.json").write_text(json.dumps(GEMMA))

    def read(values: dict):
        return architecture(ModelConfig(name_or_path=str(tmp_path), architecture=values))

    return read


def test_a_part_of_it_may_be_stated(stated) -> None:
    few = {"model_type": "gemma3", "text_config": {"hidden_size": 64}}
    assert stated(few).text_config.hidden_size == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'gemma3', stated 'llama'"),
        (GEMMA | {"text_config": TEXT | {"hidden_size": 32}}, "text_config.hidden_size is 64"),
    ],
)
def test_another_models_is_told_before_weights_are_read(stated, values: dict, message: str) -> None:
    with pytest.raises(LopeError, match=rf"model\.architecture .*{message}"):
        stated(values)


def test_experts_larger_than_any_host_are_built_without_weights() -> None:
    """A bank of 4 TiB: nothing of it is made in memory on its way to the meta device."""
    arch = AutoConfig.for_model("llama4_text", **SIZES, **EXPERTS, interleave_moe_layer_step=1)
    model = build_meta_model(ModelConfig(name_or_path="x"), arch)
    assert model.get_submodule("model.layers.0.feed_forward.experts").gate_up_proj.is_meta
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_what_the_host_cannot_hold_is_one_sentence() -> None:
    """A table that is computed, of 4 TiB."""
    arch = AutoConfig.for_model("gptj", n_embd=64, n_head=4, rotary_dim=16, n_positions=1 << 40)
    with pytest.raises(LopeError, match=r"gptj model .*cannot be built: "):
        build_meta_model(ModelConfig(name_or_path="x"), arch)
