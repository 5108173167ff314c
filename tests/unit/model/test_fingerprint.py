import itertools
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lope_dist.config.model import ModelConfig
from lope_dist.core.fingerprint import sample_ranges
from lope_dist.model.build import load_tokenizer
from lope_dist.model.fingerprint import _SAMPLE_BYTES, _SAMPLES, fingerprints


def of(folder: Path) -> dict[str, str]:
    config = ModelConfig(name_or_path=str(folder))
    return fingerprints(config, load_tokenizer(config))


def test_it_is_the_same_for_a_copy_and_after_the_tokenizer_was_used(
    tiny_llama: Path, tmp_path: Path
) -> None:
    config = ModelConfig(name_or_path=str(tiny_llama))
    tokenizer = load_tokenizer(config)
    before = fingerprints(config, tokenizer)
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert fingerprints(config, tokenizer) == before
    assert of(Path(shutil.copytree(tiny_llama, tmp_path / "copy"))) == before


@pytest.mark.parametrize("what", ["values", "name", "dtype", "shape"])
def test_other_tensors_change_the_weights_hash_alone(
    tiny_llama: Path, tmp_path: Path, what: str
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.norm.weight"
    value = tensors.pop(name)
    tensors |= {
        "values": {name: value + 1e-3},
        "name": {"model.norm.other": value},
        "dtype": {name: value.view(torch.uint8)},
        "shape": {name: value.view(2, -1)},
    }[what]
    save_file(tensors, path, metadata={"format": "pt"})
    before, after = of(tiny_llama), of(folder)
    assert {key for key in before if before[key] != after[key]} == {"base weights"}


@pytest.mark.parametrize("size", [0, 1, 32_768, 32_769, 10**6 + 3, 10**9])
def test_samples_lie_inside_and_reach_both_ends(size: int) -> None:
    ranges = list(sample_ranges(size, _SAMPLES, _SAMPLE_BYTES))
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(0 <= start <= stop <= size for start, stop in ranges)
    if size > _SAMPLES * _SAMPLE_BYTES:
        assert {stop - start for start, stop in ranges} == {_SAMPLE_BYTES}
        assert len(ranges) == _SAMPLES
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
