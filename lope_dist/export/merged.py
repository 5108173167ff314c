"""`--format merged`: the static LoRA added to the dequantized base, an ordinary model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.dynamic_module_utils import custom_object_save

from lope_dist.engine.gathering import Weights
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.export.asking import write_asking
from lope_dist.export.plain import PlainModel, plain_layers
from lope_dist.export.static import LowRank
from lope_dist.model.source import model_folder

_SHARD_BYTES = 4_000_000_000
_AS_THEY_ARE = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


def write_merged(
    folder: Path,
    run: LoadedRun,
    plain: PlainModel,
    weights: Weights,
    layers: Mapping[str, LowRank],
) -> None:
    """Write the model as transformers writes it, in the base's dtype, with its tokenizer.

    One layer of the model and one shard are in memory, beside the quantized model.

    Args:
        folder: Gets the files.
        run: The run.
        plain: What its model is without adapters.
        weights: What `run.together` gives.
        layers: What is added to the weights of which layer; none: the base, dequantized.
    """
    settings = run.config.model
    source = model_folder(settings)
    plain.config.save_pretrained(folder)
    if settings.runs_remote_code:
        custom_object_save(plain.skeleton, folder, config=plain.config)  # pyright: ignore[reportArgumentType]
    for name in _AS_THEY_ARE:
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    write_asking(folder, run)
    _write_shards(folder, _file_tensors(plain, plain_layers(run, plain, weights, layers)))


def _file_tensors(
    plain: PlainModel, layers: Iterator[dict[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor by its name in the files, where fused weights are apart and renamed.

    transformers' own conversion, a layer of the model at a time: no tensor of a file is made of
    several layers.
    """
    for layer in layers:
        tensors: dict[str, Tensor] = {}
        for name, tensor in layer.items():
            is_twice = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
            tensors[name] = tensor.clone() if is_twice else tensor  # tied in the run's model alone
        yield from revert_weight_conversion(plain.skeleton, tensors).items()


def _write_shards(folder: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Write `model.safetensors`, or several of them and their index."""
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        save_file(pending, folder / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        if pending and size + tensor.nbytes > _SHARD_BYTES:
            flush()
            size = 0
        pending[name] = tensor.contiguous()
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for i, file in enumerate(files):
        (folder / f"{i}.safetensors").rename(folder / file)
    if len(shards) > 1:
        file_of = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": file_of}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
