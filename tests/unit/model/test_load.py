import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import load_model
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.frozen import FrozenLinear
from lope_dist.model.nf4 import NF4Linear
from lope_dist.model.placement import Replicated

CPU = Replicated(torch.device("cpu"))


def _load(folder: Path, **settings) -> torch.nn.Module:
    settings = {"dtype": "float32"} | settings
    return load_model(ModelConfig(name_or_path=str(folder), **settings), CPU, progress=False)


def _logits(model: torch.nn.Module, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


IDS = torch.arange(24).view(2, 12)


def test_unquantized_logits_equal_transformers(tiny_llama: Path) -> None:
    stock = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    ours = _load(tiny_llama, quantization="none")
    assert torch.equal(_logits(ours, input_ids=IDS), _logits(stock, input_ids=IDS))


def test_a_revision_of_a_folder_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(LopeError, match=r"model\.revision = 'v2'"):
        _load(tiny_llama, revision="v2")


def test_quantized_logits_equal_transformers_with_bitsandbytes(tiny_llama: Path) -> None:
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_quant_storage=torch.float32,
    )
    stock = AutoModelForCausalLM.from_pretrained(
        tiny_llama, dtype=torch.float32, quantization_config=settings
    ).eval()
    for module in stock.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ours = _load(tiny_llama)
    assert sum(isinstance(m, NF4Linear) for m in ours.modules()) == 14
    assert torch.equal(_logits(ours, input_ids=IDS), _logits(stock, input_ids=IDS))


def test_tied_embeddings_and_biases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    stock = Qwen2ForCausalLM(config).eval()
    for name, parameter in stock.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    stock.save_pretrained(tmp_path)
    ours = _load(tmp_path, quantization="none")
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert torch.equal(_logits(ours, input_ids=IDS), _logits(stock, input_ids=IDS))


def test_encoder_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    stock = T5ForConditionalGeneration(config).eval()
    stock.save_pretrained(tmp_path)
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
    ours = _load(tmp_path, quantization="none")
    assert torch.equal(_logits(ours, **inputs), _logits(stock, **inputs))
    quantized = _load(tmp_path)
    assert isinstance(quantized.encoder.block[0].layer[1].DenseReluDense.wo, FrozenLinear)
    assert not torch.equal(_logits(quantized, **inputs), _logits(stock, **inputs))


def _edited(source: Path, target: Path, edit) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def test_misfits_are_all_listed(tiny_llama: Path, tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.norm.weight"]
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 4)
        tensors["model.stranger"] = torch.zeros(2)

    with pytest.raises(LopeError) as caught:
        _load(_edited(tiny_llama, tmp_path / "m", edit))
    message = str(caught.value)
    assert "missing model.norm.weight" in message
    assert "up_proj.weight has shape [3, 4], not [128, 64]" in message
    assert "unexpected model.stranger" in message


def test_torn_foreign_and_absent_files_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    torn = _edited(tiny_llama, tmp_path / "torn", lambda tensors: None) / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(LopeError, match="cut off"):
        TensorFiles(torn.parent)
    torn.write_bytes(b"not a tensor file")
    with pytest.raises(LopeError, match="not a whole safetensors"):
        TensorFiles(torn.parent)
    torn.rename(torn.with_name("pytorch_model.bin"))
    with pytest.raises(LopeError, match="pickle"):
        TensorFiles(torn.parent)


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LopeError, match="outside"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize("names", [{"a": 7}, {"a": None}, {"a": ["x"]}, {"a": "x\0"}, [], "x"])
def test_an_index_of_no_file_names_is_told(names: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(LopeError, match=r"model\.safetensors\.index\.json "):
        TensorFiles(tmp_path)


def test_a_wrong_stated_architecture_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(LopeError, match="hidden_size is 64, stated 65"):
        _load(tiny_llama, architecture={"model_type": "llama", "hidden_size": 65})


def test_a_folder_that_does_not_exist_is_no_hub_name() -> None:
    with pytest.raises(LopeError, match=r"model\.name_or_path: .*'/nowhere/at/all'"):
        _load(Path("/nowhere/at/all"))
