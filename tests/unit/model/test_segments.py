"""transformers' operations followed on meta tensors: what they make is read part by part."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ConversionOps,
    ErnieFuseAndSplitTextVisionExperts,
    Interleave,
    MergeModulelist,
    PermuteForRope,
    Transpose,
    WeightConverter,
)

from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.name_mapping import Recipe
from lope_dist.model.origin import OriginReader, origins
from lope_dist.model.segments import Rearranged

MODEL: Any = SimpleNamespace(config=SimpleNamespace(num_attention_heads=2))


class Doubled(ConversionOps):
    """Arithmetic: no move of elements."""

    def convert(self, input_dict, source_patterns, target_patterns, **_):  # noqa: D102
        (tensors,) = input_dict.values()
        return {target_patterns[0]: 2 * (tensors[0] if isinstance(tensors, list) else tensors)}


class WrittenInPlace(Doubled):
    """A write in place, which makes no new tensor."""

    def convert(self, input_dict, source_patterns, target_patterns, **_):  # noqa: D102
        (tensors,) = input_dict.values()
        return {target_patterns[0]: tensors[0].clone().mul_(3)}


GATES_AND_UPS = {f"e.{i}.{kind}": (6, 8) for i in range(4) for kind in ("gate", "up")}
CASES: dict[str, tuple[dict[str, tuple[int, ...]], Any, Any, list[ConversionOps], Any]] = {
    # tensors of the file, source patterns, target patterns, operations, how it is read
    "experts": (
        GATES_AND_UPS, ["e.*.gate", "e.*.up"], "bank", [MergeModulelist(), Concatenate(1)], 8,
    ),
    "split": ({"qkv": (12, 8)}, "qkv", ["q", "k", "v"], [Chunk(0)], 1),
    "split in columns": ({"ab": (6, 8)}, "ab", ["a", "b"], [Chunk(1)], 6),
    "transposed, then split": (
        {"ab": (6, 8)}, "ab", ["a", "b"], [Transpose(0, 1), Chunk(1)], 24,
    ),
    "two groups of experts": (
        GATES_AND_UPS, ["e.*.gate", "e.*.up"], ["text", "vision"],
        [ErnieFuseAndSplitTextVisionExperts()], 4,
    ),
    "rows in another order": ({"q": (12, 8)}, "q", "q_proj", [PermuteForRope()], 11),
    "interleaved": ({"w": (6, 8)}, "w", "gate_up", [Interleave(1)], 43),
    "every expert transposed": ({"bank": (4, 6, 8)}, "bank", "down", [Transpose(1, 2)], Rearranged),
    "arithmetic": ({"w": (6, 8)}, "w", "scaled", [Doubled()], None),
    "in place": ({"w": (6, 8)}, "w", "scaled", [WrittenInPlace()], None),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_any_part_is_what_transformers_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    shapes, sources, targets, operations, how = CASES[case]
    if how is Rearranged:
        monkeypatch.setattr("lope_dist.model.segments._MAX_SHORT", 16)
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    files = TensorFiles(tmp_path)
    converter = WeightConverter(sources, targets, operations)
    first = converter.target_patterns[0]
    recipe = Recipe(first, torch.float32, converter)
    for name in tensors:
        _, pattern = converter.rename_source_key(name)
        assert pattern is not None
        recipe.sources.append((pattern, name))
    expected = recipe.apply(MODEL, lambda name: tensors[name])
    found = origins(recipe, MODEL, files)
    assert [origin.target for origin in found] == list(expected)
    for origin in found:
        if isinstance(how, int):
            assert isinstance(origin.layout, list)
            assert len(origin.layout) == how
        else:
            assert origin.layout is None if how is None else isinstance(origin.layout, how)
        whole = expected[origin.target].reshape(-1)
        assert origin.shape == tuple(expected[origin.target].shape)
        for start, stop in [(0, whole.numel()), (0, 1), (5, 31), (47, 48), (13, 13)]:
            part = OriginReader(origin, files, MODEL).read(start, min(stop, whole.numel()))
            assert torch.equal(part, whole[start:stop]), (start, stop)


def test_a_transposed_expert_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lope_dist.model.segments._MAX_SHORT", 16)
    save_file({"bank": torch.randn(4, 6, 8)}, tmp_path / "model.safetensors")
    files = TensorFiles(tmp_path)
    recipe = Recipe("down", torch.float32, WeightConverter("bank", "down", [Transpose(1, 2)]))
    recipe.sources.append(("bank", "bank"))
    reads: list[tuple[int, int]] = []
    real = files.read
    monkeypatch.setattr(files, "read", lambda name, a, b: reads.append((a, b)) or real(name, a, b))
    (origin,) = origins(recipe, MODEL, files)
    reader = OriginReader(origin, files, MODEL)
    reader.read(50, 60)
    reader.read(60, 97)
    assert reads == [(48, 96), (96, 144)]
