"""NaN and infinity in a base model's weights, named while they are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model import stream
from lope_dist.model.build import load_model
from lope_dist.model.placement import Replicated
from lope_dist.train.session import train

CPU = torch.device("cpu")
PACKED = "model.layers.1.mlp.up_proj.weight"
PLAIN = "model.layers.0.input_layernorm.weight"


class LastOfTwo(Replicated):
    """Keeps the second half, as the second of two ranks."""

    def span(self, numel: int) -> tuple[int, int]:
        """Return the second half."""
        return numel // 2, numel

    def empty_part(self, numel: int, dtype: torch.dtype) -> torch.Tensor:
        """Return zeros for it."""
        return torch.zeros(numel - numel // 2, dtype=dtype)

    def whole(self, part: torch.Tensor, spans: list[tuple[int, int]]) -> torch.Tensor:
        """Say that the other rank has the same."""
        return torch.cat([part, part])

    def place(self, parameter, part: torch.Tensor, shape: torch.Size) -> None:
        """Leave the parameter as it is."""


def _with(folder: Path, target: Path, name: str, index: int, value: float) -> Path:
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    tensors[name].view(-1)[index] = value
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _load(folder: Path, placement=None, **settings) -> torch.nn.Module:
    settings = {"dtype": "float32"} | settings
    config = ModelConfig(name_or_path=str(folder), **settings)
    return load_model(config, placement or Replicated(CPU), progress=False)


@pytest.mark.parametrize("name", [PACKED, PLAIN])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_tensor_file_and_element_are_named(
    name: str, value: str, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = _with(tiny_llama, tmp_path / "model", name, 17, float(value))
    path = folder / "model.safetensors"
    with pytest.raises(LopeError, match=rf"{path}: element 17 of tensor '{name}' is {value},"):
        _load(folder)


def test_later_chunks_are_looked_at(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _with(tiny_llama, tmp_path / "model", PACKED, 4099, float("nan"))
    monkeypatch.setattr(stream, "_CPU_CHUNK", 1024)
    with pytest.raises(LopeError, match="element 4099 of"):
        _load(folder)


def test_a_rank_names_what_its_own_part_holds(tiny_llama: Path, tmp_path: Path) -> None:
    index = 128 * 64 - 3
    folder = _with(tiny_llama, tmp_path / "model", PACKED, index, float("nan"))
    with pytest.raises(LopeError, match=f"element {index} of tensor '{PACKED}'"):
        _load(folder, LastOfTwo(CPU), quantization="none")
    first = _with(tiny_llama, tmp_path / "other", PACKED, 3, float("nan"))
    _load(first, LastOfTwo(CPU), quantization="none")  # is the other rank's to name


def test_what_the_dtype_cannot_hold_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    folder = _with(tiny_llama, tmp_path / "model", PACKED, 5, 3.4e38)
    with pytest.raises(LopeError, match=r"element 5 .* 3\.4e\+38, .*torch\.bfloat16"):
        _load(folder, dtype="bfloat16")
    _load(folder)


@pytest.mark.parametrize("nested", [True, False])
def test_scales_of_a_packed_model_are_looked_at(
    nested: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested
    )
    AutoModelForCausalLM.from_pretrained(
        tiny_llama, dtype=torch.float32, quantization_config=settings
    ).save_pretrained(tmp_path / "packed")
    scales = f"{PACKED}.nested_absmax" if nested else f"{PACKED}.absmax"
    folder = _with(tmp_path / "packed", tmp_path / "model", scales, 0, float("nan"))
    with pytest.raises(LopeError, match=f"element 0 of tensor '{scales}' is nan"):
        _load(folder, double_quantization=nested)
    if nested:
        name = f"{PACKED}.quant_state.bitsandbytes__nf4"
        tensors = load_file(tmp_path / "packed" / "model.safetensors")
        for offset, told in (("NaN", "nan"), ('"a"', "'a'"), ("1e999", "inf")):
            state = json.loads(bytes(tensors[name].tolist())) | {"nested_offset": "HERE"}
            text = json.dumps(state).replace('"HERE"', offset)
            changed = tensors | {name: torch.tensor(list(text.encode()), dtype=torch.uint8)}
            save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
            with pytest.raises(LopeError, match=f"nested_offset {told}, which is no finite"):
                _load(folder)


def test_a_run_ends_before_its_first_step(tiny_llama: Path, tmp_path: Path, tiny_config) -> None:
    folder = _with(tiny_llama, tmp_path / "model", "lm_head.weight", 0, float("nan"))
    config = tiny_config(model__name_or_path=str(folder))
    with pytest.raises(LopeError, match=r"element 0 of tensor 'lm_head.weight' is nan"):
        train(config)
    assert not (Path(config.output_dir) / "metrics.jsonl").exists()
