"""Files whose tensors transformers renames, fuses, splits or transposes while loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lope_dist.config.model import ModelConfig
from lope_dist.model.build import load_model
from lope_dist.model.placement import Replicated

CPU = Replicated(torch.device("cpu"))
IDS = torch.arange(24).view(2, 12)
SIZES = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 16}
MODELS = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 8, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma4_text": {
        "head_dim": 16, "global_head_dim": 16, "vocab_size_per_layer_input": 100,
        "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}  # fmt: skip


def _make(folder: Path, model_type: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **MODELS[model_type]})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():  # nothing may be trivially one or zero
                tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(folder, max_shard_size="200KB")
    return model


def _load(folder: Path, dtype: Any) -> torch.nn.Module:
    config = ModelConfig(name_or_path=str(folder), dtype=dtype, quantization="none")
    return load_model(config, CPU, progress=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", list(MODELS))
def test_it_is_the_model_that_transformers_loads(
    tmp_path: Path, model_type: str, dtype: str
) -> None:
    _make(tmp_path, model_type)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    ours = _load(tmp_path, dtype)
    expected, found = stock.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    for (name, ours_buffer), (_, theirs) in zip(
        ours.named_buffers(), stock.named_buffers(), strict=True
    ):
        assert torch.equal(ours_buffer, theirs), name
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, stock(IDS).logits)
