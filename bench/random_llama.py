"""Write a Llama-architecture checkpoint of random weights, in shards, once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "llama-1.2b": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24},
    "llama2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
_SHARD_BYTES = 400 << 20
_POOL = 1 << 24


def write_checkpoint(shape: str, folder: Path) -> Path:
    """Return a folder with the checkpoint, writing it in bfloat16 unless it is there, whole."""
    target = folder / shape
    if (target / "model.safetensors.index.json").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(vocab_size=32000, architectures=["LlamaForCausalLM"], **SHAPES[shape])
    config.save_pretrained(target)
    with init_empty_weights():
        model = LlamaForCausalLM(config)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(_shards(model)):
        name = f"model-{number:05d}.safetensors"
        save_file(tensors, target / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    total = sum(p.numel() * 2 for p in model.parameters())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def _shards(model: LlamaForCausalLM) -> Iterator[dict[str, torch.Tensor]]:
    """Yield tensors in groups of about `_SHARD_BYTES`."""
    pool = (torch.randn(_POOL, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.dim() == 1:
            shard[name] = torch.ones(parameter.shape, dtype=torch.bfloat16)
        else:
            # Another stretch of the same random pool for each: 7 B draws would take minutes.
            rolled = pool.roll(number * 7919)
            repeats = math.ceil(parameter.numel() / _POOL)
            shard[name] = rolled.repeat(repeats)[: parameter.numel()].view(parameter.shape).clone()
        size += parameter.numel() * 2
        if size >= _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard
