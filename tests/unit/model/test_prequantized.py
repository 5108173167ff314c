"""Checkpoints that bitsandbytes packed, and the working buffer."""

import json
import re
import shutil
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model import stream
from lope_dist.model.build import build_meta_model, load_model
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.nf4 import NF4Linear
from lope_dist.model.placement import Replicated

CPU = Replicated(torch.device("cpu"))
LAYER = "model.layers.0.mlp.up_proj.weight"
STATE = f"{LAYER}.quant_state.bitsandbytes__nf4"


def _load(folder: Path, **settings) -> torch.nn.Module:
    settings = {"dtype": "float32"} | settings
    return load_model(ModelConfig(name_or_path=str(folder), **settings), CPU, progress=False)


def _pack(
    source: Path, target: Path, *, nested: bool, storage: torch.dtype, skipped: list | None = None
) -> Path:
    """Let transformers quantize and save a model."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_quant_storage=storage,
        llm_int8_skip_modules=skipped,
    )
    AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, quantization_config=settings
    ).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def packed(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return _pack(tiny_llama, folder, nested=True, storage=torch.uint8)


def _assert_same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    pairs = zip(found.named_parameters(), expected.named_parameters(), strict=True)
    for (name, ours), (_, theirs) in pairs:
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)), name
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        assert torch.equal(found(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32])
def test_a_packed_checkpoint_equals_quantizing_while_loading(
    tiny_llama: Path, tmp_path: Path, nested: bool, storage: torch.dtype
) -> None:
    folder = _pack(tiny_llama, tmp_path, nested=nested, storage=storage)
    assert "quantization_config" in json.loads((folder / "config.json").read_text())
    ours = _load(folder, double_quantization=nested)
    assert not hasattr(ours.config, "quantization_config")
    _assert_same_weights(ours, _load(tiny_llama, double_quantization=nested))


BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}


@pytest.mark.parametrize("settings", [BITNET, {"quant_method": "gptq"}, {"quant_method": "mxfp4"}])
def test_weights_that_are_quantized_otherwise_are_refused_before_they_are_read(
    tiny_llama: Path, settings: dict
) -> None:
    """Even plain ones with ordinary names, with which BitNet's layers compute something else."""
    arch = AutoConfig.from_pretrained(tiny_llama)
    arch.quantization_config = settings
    with pytest.raises(LopeError, match=rf"{settings['quant_method']} .*take a 16-bit checkpoint"):
        build_meta_model(ModelConfig(name_or_path="x"), arch)


def _edited(packed: Path, target: Path, edit) -> Path:
    shutil.copytree(packed, target)
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def _restate(**changes):
    """Return an edit of one layer's JSON."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        state = json.loads(bytes(tensors[STATE].tolist())) | changes
        tensors[STATE] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return edit


def _as_fp4(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STATE.replace("nf4", "fp4")] = tensors.pop(STATE)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_as_fp4, f"{LAYER} .*fp4; only nf4"),
        (_restate(quant_type="fp4"), f"{LAYER} has quant_type 'fp4'; only 'nf4'"),
        (_restate(blocksize=128), f"{LAYER} has blocksize 128; only 64"),
        (_restate(nested_blocksize=64), f"{LAYER} has nested_blocksize 64; only 256"),
        (_restate(shape=[4, 5]), rf"{LAYER} has shape \[4, 5\], not \[128, 64\]"),
        (lambda t: t.pop(f"{LAYER}.absmax"), f"missing {LAYER}.absmax"),
        (lambda t: t.pop(STATE), f"missing {STATE}"),
        (lambda t: t.update({STATE: t[STATE][:5].clone()}), f"{STATE} is not JSON"),
        (
            lambda t: t.update({LAYER: t[LAYER][:-1].clone()}),
            rf"{LAYER} .*packed shape \[4095, 1\], not \[4096, 1\]",
        ),
        (
            lambda t: t.update({f"{LAYER}.absmax": t[f"{LAYER}.absmax"].float()}),
            rf"{LAYER}.absmax is \[128\] of torch.float32, not \[128\] of torch.uint8",
        ),
        (
            lambda t: t.update({f"{LAYER}.quant_map": torch.linspace(-1, 1, 16)}),
            f"{LAYER}.quant_map .*NF4's 16 ",
        ),
    ],
)
def test_what_cannot_be_used_is_named(packed: Path, tmp_path: Path, edit, message: str) -> None:
    with pytest.raises(LopeError, match=message):
        _load(_edited(packed, tmp_path / "m", edit))


def test_other_settings_than_the_files_are_refused(packed: Path) -> None:
    with pytest.raises(LopeError, match=r"set model\.double_quantization=true"):
        _load(packed, double_quantization=False)
    with pytest.raises(LopeError, match=r"model\.skip_modules"):
        _load(packed, skip_modules=("lm_head", "up_proj"))
    with pytest.raises(LopeError, match="packed bytes"):
        _load(packed, quantization="none")


@pytest.mark.parametrize(
    ("skipped", "named"),
    [
        (["model.layers.1.mlp", "lm_head"], ["layers.1.mlp"]),
        (["v_proj", "lm_head"], ["v_proj"]),
        (["model.layers.0.self_attn", "down_proj", "lm_head"], ["down_proj", "layers.0.self_attn"]),
        (["model.layers.1", "lm_head"], ["layers.1"]),
    ],
)
def test_layers_that_were_left_unpacked_are_to_be_named(
    tmp_path: Path, tiny_llama: Path, skipped: list[str], named: list[str]
) -> None:
    """With what the error says, the base is the one that transformers loads."""
    folder = _pack(tiny_llama, tmp_path, nested=True, storage=torch.uint8, skipped=skipped)
    with pytest.raises(LopeError, match=r"would be quantized; set model\.skip_modules=") as told:
        _load(folder)
    (entries,) = re.findall(r"skip_modules=\[(.*?)\]", str(told.value))
    assert entries.split(",")[0] == "lm_head"
    assert sorted(entries.split(",")[1:]) == named
    ours = _load(folder, skip_modules=tuple(entries.split(",")))
    _assert_same_weights(ours, _load(tiny_llama, skip_modules=tuple(skipped)))
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = {name: p for name, p in stock.named_parameters() if p.is_floating_point()}
    for name, parameter in ours.named_parameters():
        if name in whole:
            assert torch.equal(parameter, whole.pop(name)), name
    assert not whole


def test_the_head_of_a_packed_model_may_be_quantized(tiny_llama: Path, packed: Path) -> None:
    _assert_same_weights(_load(packed, skip_modules=()), _load(tiny_llama, skip_modules=()))


def test_a_small_buffer_bounds_each_read_and_changes_no_bit(
    tiny_llama: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quantizer sees what a read brings, so reads bound its temporaries too."""
    largest_read = [0]
    real = TensorFiles.read_bytes

    def read_bytes(self, name: str, start: int, stop: int) -> torch.Tensor:
        largest_read[0] = max(largest_read[0], stop - start)
        return real(self, name, start, stop)

    monkeypatch.setattr(TensorFiles, "read_bytes", read_bytes)
    buffer_bytes = 64 * 10 * stream._WORKING_BYTES
    for folder in (tiny_llama, packed):
        expected = _load(folder)
        assert largest_read[0] > 64 * 10 * 4
        config = ModelConfig(name_or_path=str(folder), dtype="float32")
        model = build_meta_model(config, expected.config)
        files = TensorFiles(folder)
        largest_read[0] = 0
        stream.load_weights(model, files, CPU, torch.float32, buffer_bytes, progress=False)
        assert 0 < largest_read[0] <= 64 * 10 * 4
        _assert_same_weights(model.eval(), expected)
        assert any(isinstance(m, NF4Linear) for m in model.modules())


def _tiny(folder: Path, model_type: str) -> Path:
    sizes = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2,
        "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, "initializer_range": 0.2,
    }  # fmt: skip
    config = AutoConfig.for_model(model_type, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_mixture_that_transformers_packed_loads_as_the_unquantized_one(tmp_path: Path) -> None:
    """Its attention is packed in the file; its experts are not, and are fused and packed here."""
    source = _tiny(tmp_path / "source", "mixtral")
    folder = _pack(source, tmp_path / "packed", nested=True, storage=torch.uint8)
    names = load_file(folder / "model.safetensors")
    assert "model.layers.0.self_attn.q_proj.weight.absmax" in names
    assert "model.layers.0.block_sparse_moe.experts.1.w1.weight" in names
    _assert_same_weights(_load(folder), _load(source))


def test_experts_that_are_packed_one_by_one_are_refused(tmp_path: Path) -> None:
    source = _tiny(tmp_path / "source", "mixtral")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            packed, state = bnb.quantize_4bit(
                tensors.pop(name), quant_type="nf4", compress_statistics=True
            )
            tensors |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
            tensors[name] = packed

    with pytest.raises(LopeError, match=r"gate_up_proj \(from .*w1.*\) "):
        _load(_edited(source, tmp_path / "packed", edit))


def test_a_packed_conv1d_is_refused(tmp_path: Path) -> None:
    source = _tiny(tmp_path / "source", "gpt2")
    folder = _pack(source, tmp_path / "packed", nested=True, storage=torch.uint8)
    with pytest.raises(LopeError, match=r"c_attn\.weight"):
        _load(folder)
