"""`--format merged`: the static LoRA added to the dequantized base, an ordinary model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from lope_dist.adapters.lope import LopeLinear, lope_layers
from lope_dist.evaluate.load import LoadedRun
from lope_dist.export.static import LowRank
from lope_dist.model.nf4 import NF4Linear
from lope_dist.model.source import model_folder

_SHARD = "4GB"


def merged_linear(layer: LopeLinear, low_rank: LowRank) -> nn.Linear:
    """Return an ordinary layer with the sum as its weight, rounded once, to the base's dtype."""
    base = layer.base
    weight = _weight(base)
    delta = (low_rank.B_OR @ low_rank.A_RD * low_rank.scaling).to(weight.device)
    merged = nn.Linear(base.in_features, base.out_features, base.bias is not None, device="meta")
    merged.weight = nn.Parameter((weight.float() + delta).to(weight.dtype), requires_grad=False)
    merged.bias = base.bias
    return merged


def write_merged(folder: Path, run: LoadedRun, layers: Mapping[str, LowRank]) -> None:
    """Write the model in the base's dtype, in shards, with its tokenizer.

    One shard at a time is in memory, beside the quantized model.
    """
    arch = AutoConfig.from_pretrained(
        model_folder(run.config.model), trust_remote_code=run.config.model.trust_remote_code
    )
    vars(arch).pop("quantization_config", None)
    arch.dtype = run.config.model.dtype
    arch.save_pretrained(folder)
    generation = model_folder(run.config.model) / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, folder)
    run.tokenizer.save_pretrained(folder)
    makers = _tensors(run.model, layers)
    shapes = {name: tensor for name, (tensor, _) in makers.items()}
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=_SHARD
    )
    for file, names in plan.filename_to_tensors.items():
        shard = {name: makers[name][1]().detach().cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _tensors(
    model: nn.Module, layers: Mapping[str, LowRank]
) -> dict[str, tuple[Tensor, Callable[[], Tensor]]]:
    """Return each tensor of the plain model: its shape, on meta, and how to make it.

    Tied weights come once, by their first name, as transformers saves them.
    """
    adapted = lope_layers(model)
    found: dict[str, tuple[Tensor, Callable[[], Tensor]]] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        parent = name.removesuffix(".base")
        if ".lope" in name or name in adapted:
            continue
        plain = parent if parent in adapted else name
        persistent = module.state_dict(keep_vars=True) if not list(module.children()) else {}
        own = dict(module.named_parameters(recurse=False)) | persistent
        for leaf, tensor in own.items():
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            key = f"{plain}.{leaf}" if plain else leaf
            if leaf == "weight" and isinstance(module, nn.Linear):
                shape = module.out_features, module.in_features
                low_rank = layers.get(plain)
                if low_rank is not None:
                    make = _merge(adapted[plain], low_rank)
                else:
                    make = _dequantize(module)
            else:
                shape, make = tuple(tensor.shape), _same(tensor)
            found[key] = torch.empty(shape, dtype=tensor.dtype, device="meta"), make
    return found


def _merge(layer: LopeLinear, low_rank: LowRank) -> Callable[[], Tensor]:
    return lambda: merged_linear(layer, low_rank).weight


def _dequantize(layer: nn.Linear) -> Callable[[], Tensor]:
    return lambda: _weight(layer)


def _same(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _weight(layer: nn.Linear) -> Tensor:
    """Return a layer's weight, dequantized."""
    return layer.dequantized() if isinstance(layer, NF4Linear) else layer.weight
