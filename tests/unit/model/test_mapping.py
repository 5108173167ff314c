"""Files whose tensors transformers renames, fuses, splits or transposes while loading."""

import json
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import load_model
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.nf4 import packed_weights
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


def _make(folder: Path, model_type: str, **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **MODELS.get(model_type, {}), **sizes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():  # nothing may be trivially one or zero
                tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(folder, max_shard_size="200KB")
    return model


def _load(folder: Path, dtype: Any = "float32", quantization: Any = "none") -> Any:
    config = ModelConfig(name_or_path=str(folder), dtype=dtype, quantization=quantization)
    return load_model(config, CPU, progress=False)


def _stock(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def _assert_same(ours: torch.nn.Module, stock: PreTrainedModel) -> None:
    expected, found = stock.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    buffers = zip(ours.named_buffers(), stock.named_buffers(), strict=True)
    for (name, mine), (_, theirs) in buffers:
        assert torch.equal(mine, theirs), name
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, stock(IDS).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", list(MODELS))
def test_it_is_the_model_that_transformers_loads(
    tmp_path: Path, model_type: str, dtype: str
) -> None:
    _make(tmp_path, model_type)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    _assert_same(_load(tmp_path, dtype), _stock(tmp_path, getattr(torch, dtype)))


def test_a_bank_is_quantized_as_bitsandbytes_quantizes_the_whole_of_it(tmp_path: Path) -> None:
    """Of 24 x 36 weights an expert's matrix ends within a block of 64."""
    _make(tmp_path, "mixtral", hidden_size=24, intermediate_size=36)
    ours, stock = _load(tmp_path, quantization="nf4"), _stock(tmp_path)
    banks = [(n, m) for n, m in ours.named_modules() if "gate_up_proj" in packed_weights(m)]
    assert len(banks) == 2
    for name, bank in banks:
        for key, how in packed_weights(bank).items():
            weight = stock.get_parameter(f"{name}.{key}").detach()
            expected = bnb.dequantize_4bit(
                *bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            )
            assert torch.equal(how.dequantize(bank.get_parameter(key).data), expected)


def _edit(folder: Path, edit: Any, file: str = "model.safetensors") -> None:
    tensors = load_file(folder / file)
    edit(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def test_a_tied_head_that_the_file_holds_too(tmp_path: Path) -> None:
    _make(tmp_path, "llama", tie_word_embeddings=True)
    file = next(tmp_path.glob("*-00001-*")).name
    _edit(tmp_path, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}), file)
    equal = _load(tmp_path)
    assert equal.lm_head.weight is equal.model.embed_tokens.weight
    _edit(tmp_path, lambda tensors: tensors[HEAD].add_(1), file)
    different = _load(tmp_path)
    assert different.lm_head.weight is not different.model.embed_tokens.weight
    assert HEAD not in different.all_tied_weights_keys
    _assert_same(different, _stock(tmp_path))


def test_a_tied_head_that_the_file_holds_alone(tmp_path: Path) -> None:
    _make(tmp_path, "llama", tie_word_embeddings=True)
    file = next(tmp_path.glob("*-00001-*")).name
    _edit(tmp_path, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}), file)
    ours = _load(tmp_path)
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    _assert_same(ours, _stock(tmp_path))


def test_a_tensor_in_several_files_is_the_one_that_transformers_takes(tmp_path: Path) -> None:
    _make(tmp_path, "llama")
    first, *_, last = sorted(path.name for path in tmp_path.glob("model-*"))
    name = next(name for name in load_file(tmp_path / first) if name.endswith("proj.weight"))
    _edit(tmp_path, lambda t: t.update({name: load_file(tmp_path / first)[name] + 1}), last)
    _assert_same(_load(tmp_path), _stock(tmp_path))
    assert TensorFiles(tmp_path).repeated == [name]


def test_what_a_bank_lacks_is_named(tmp_path: Path) -> None:
    _make(tmp_path, "mixtral", num_hidden_layers=1).save_pretrained(tmp_path / "one")
    expert = "model.layers.0.block_sparse_moe.experts"
    _edit(tmp_path / "one", lambda tensors: tensors.pop(f"{expert}.3.w1.weight"))
    with pytest.raises(LopeError, match=r"gate_up_proj.*experts\.0\.w1\.weight"):
        _load(tmp_path / "one")
    _edit(tmp_path / "one", lambda tensors: tensors.pop(f"{expert}.3.w2.weight"))
    with pytest.raises(LopeError, match=r"down_proj \(from .*\) has shape \[3, 64, 128\], not \[4"):
        _load(tmp_path / "one")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_floats_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    _make(tmp_path, "llama", num_hidden_layers=1).save_pretrained(tmp_path / "one")
    _edit(tmp_path / "one", lambda t: t.update({HEAD: t[HEAD].to(dtype)}))
    with pytest.raises(LopeError, match=r"'lm_head\.weight' has dtype F8_.* \(8-bit float\); use"):
        _load(tmp_path / "one")


def test_another_file_stated_in_the_configuration_is_refused(tmp_path: Path) -> None:
    _make(tmp_path, "llama")
    config = tmp_path / "config.json"
    stated = {"transformers_weights": "other.safetensors"}
    config.write_text(json.dumps(json.loads(config.read_text()) | stated))
    with pytest.raises(LopeError, match=r"'other\.safetensors' \(transformers_weights\); rename"):
        _load(tmp_path)


def test_a_text_model_leaves_the_vision_tower_of_its_files_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SIZES | {"head_dim": 16, "intermediate_size_mlp": 128, "num_local_experts": 4}
    vision = {
        "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "patch_size": 14,
        "num_attention_heads": 2, "image_size": 28, "vision_output_dim": 32,
        "projector_input_dim": 32, "projector_output_dim": 32,
    }  # fmt: skip
    config = AutoConfig.for_model("llama4", text_config=text, vision_config=vision)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    model = load_model(
        ModelConfig(name_or_path=str(tmp_path), dtype="float32", quantization="none"),
        CPU,
        progress=True,
    )
    parts = ("multi_modal_projector", "vision_model")
    count = sum(name.startswith(parts) for name in load_file(tmp_path / "model.safetensors"))
    told = f"leaves {count} tensors of the files unread, which belong to other parts of the model ("
    assert told + ", ".join(parts) in capsys.readouterr().err
    _assert_same(model, _stock(tmp_path))
    _edit(tmp_path, lambda tensors: tensors.update(stranger=torch.zeros(2)))
    with pytest.raises(LopeError, match="Llama4ForCausalLM: unexpected stranger"):
        _load(tmp_path)
