"""What a model's own description cannot be, and which attention its class has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.architectures import save_tiny
from transformers import AutoConfig, GptOssForCausalLM, LlamaForCausalLM

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model import attention
from lope_dist.model.build import architecture, attention_of


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": 7}, {"hidden_size": "64"}, {"num_attention_heads": 0}],
)
def test_a_description_that_cannot_be_is_one_sentence(tmp_path: Path, change) -> None:
    folder = save_tiny(tmp_path / "model", "llama")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(LopeError, match=r"config\.json cannot be used: .+\.$"):
        architecture(ModelConfig(name_or_path=str(folder)))


@pytest.mark.parametrize(("alibi", "chosen"), [(False, "flash_attention_2"), (True, "sdpa")])
def test_flash_attention_is_left_out_where_scores_have_a_bias(monkeypatch, alibi, chosen) -> None:
    monkeypatch.setattr(attention, "flash_runs_here", lambda dtype: True)
    arch = AutoConfig.for_model("falcon", alibi=alibi)
    assert attention_of(ModelConfig(name_or_path="x"), arch) == chosen
    flash = ModelConfig(name_or_path="x", attention="flash_attention_2")
    if not alibi:
        assert attention_of(flash, arch) == "flash_attention_2"
        return
    with pytest.raises(LopeError, match=r"ALiBi.*attention=auto"):
        attention_of(flash, arch)


def test_flash_attention_is_left_out_where_a_model_computes_with_another_one(monkeypatch) -> None:
    monkeypatch.setattr(attention, "flash_runs_here", lambda dtype: True)
    choose = attention.choose_attention
    assert choose("auto", LlamaForCausalLM, "bfloat16") == "flash_attention_2"
    assert choose("auto", GptOssForCausalLM, "bfloat16") == "eager"
    with pytest.raises(LopeError, match="allowed here: auto, eager"):
        choose("flash_attention_2", GptOssForCausalLM, "bfloat16")
