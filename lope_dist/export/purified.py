"""`--format purified`: the adapter as it is, its poisoning experts replaced by Grams.

Made from the checkpoint's file alone; the base model is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lope_dist.adapters.compensation import grams
from lope_dist.adapters.experts import ExpertBank, Mix, Routed
from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.fingerprint import sha256_of
from lope_dist.core.runlog import write_json
from lope_dist.train.checkpoint.descriptions import DESCRIPTION, DESCRIPTION_FORMAT
from lope_dist.train.checkpoint.folder import (
    CONFIG,
    WEIGHTS,
    Checkpoint,
    load_weights,
)
from lope_dist.train.checkpoint.same_base import base_fingerprints


def write_purified(folder: Path, config: RunConfig, checkpoint: Checkpoint) -> None:
    """Write what `evaluate.loaded.load.load_run` reads as a purified adapter.

    Raises:
        LopeError: no poisoning expert to remove, or a damaged checkpoint.
    """
    tensors = purified_tensors(load_weights(checkpoint), config.adapter.num_poison)
    save_file(tensors, folder / WEIGHTS)
    described: dict[str, Any] = {
        name: {"shape": list(t.shape), "norm": float(t.double().norm())}
        for name, t in tensors.items()
    }
    write_json(
        folder / DESCRIPTION,
        {
            "format": DESCRIPTION_FORMAT,
            "purified": True,
            "sha256": sha256_of(folder / WEIGHTS),
            "adapter": config.adapter.model_dump(mode="json"),
            "base_model": config.model.name_or_path,
            "fingerprints": base_fingerprints(checkpoint),
            "tensors": described,
        },
    )
    write_atomic(folder / CONFIG, dump_config(config))


@torch.no_grad()
def purified_distance(folder: Path, config: RunConfig, checkpoint: Checkpoint) -> float:
    """Return how far masked answers of a written adapter are from those of the checkpoint.

    The largest difference over the adapted layers, relative to what the layer adds to its base:
    each is given the same random tokens, once with and once without its poisoning experts.
    """
    before, after = load_weights(checkpoint), load_file(folder / WEIGHTS)
    adapter = config.lope_adapter("lope export")
    generator = torch.Generator().manual_seed(config.seed)
    h_NTR = torch.randn(1, 64, adapter.rank, generator=generator)
    w_NTE = torch.rand(1, 64, adapter.num_experts, generator=generator).softmax(-1)
    distances = []
    for name in [n.removesuffix(".grams") for n in after if n.endswith(".B.grams")]:
        out_features = before[f"{name}.normal_0"].shape[0]
        answers = []
        for tensors in (before, after):
            bank = ExpertBank(out_features, adapter, None)
            if tensors is after:
                bank.purify()
            bank.load_state_dict(
                {
                    n.removeprefix(f"{name}."): t
                    for n, t in tensors.items()
                    if n.startswith(f"{name}.")
                }
            )
            y_NTO = torch.zeros(1, 64, out_features)
            mix = Mix(adapter.scaling, adapter.compensation)
            answers.append(bank(y_NTO, Routed(h_NTR, w_NTE), mix))
        size = answers[0].norm()
        distances.append(float((answers[1] - answers[0]).norm() / size) if size > 0 else 0.0)
    return max(distances)


def purified_tensors(weights: dict[str, Tensor], num_poison: int) -> dict[str, Tensor]:
    """Return an adapter's tensors with Grams in the place of the poisoning experts.

    Raises:
        LopeError: there is no poisoning expert.
    """
    if num_poison == 0:
        raise LopeError(
            "--format purified: this run has no poisoning expert to remove "
            "(adapter.num_poison is 0); use --format peft or merged."
        )
    purified: dict[str, Tensor] = {}
    experts: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for name in sorted(weights, key=_expert_order):
        bank, dot, leaf = name.rpartition(".B.")
        if dot:
            experts.setdefault(bank, ([], []))[leaf.startswith("poison_")].append(weights[name])
        if not leaf.startswith("poison_") or not dot:
            purified[name] = weights[name].contiguous()
    for bank, (normal, poison) in experts.items():
        purified[f"{bank}.B.grams"] = grams(normal, poison).contiguous()
    return purified


def _expert_order(name: str) -> tuple[str, int]:
    """Sort experts by number: `normal_10` comes after `normal_9`."""
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (name, 0)
