"""Adapter checkpoints: safetensors and JSON, whole or absent, readable without DeepSpeed.

RUN/checkpoints/1-poison/    adapter.safetensors  weights by logical name
                             adapter.json         shapes, norms, roles, sha256
                             state.json           stage, steps, fingerprints
                             run.yaml             the resolved configuration
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lope_dist.adapters.lope import adapter_tensors
from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.roles import Role
from lope_dist.core.runlog import read_json, write_json

WEIGHTS, DESCRIPTION, STATE, CONFIG = (
    "adapter.safetensors",
    "adapter.json",
    "state.json",
    "run.yaml",
)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    index: int
    """Position of its stage, from 1."""
    stage: str

    @property
    def adapter_sha256(self) -> str:
        """The hash of the adapter's file, as verified when it was written."""
        description = read_json(self.folder / DESCRIPTION)
        if not isinstance(description, dict) or "sha256" not in description:
            raise LopeError(f"{self.folder / DESCRIPTION} tells no sha256; restore it from a copy.")
        return description["sha256"]


def save_checkpoint(
    run_dir: Path,
    index: int,
    stage: str,
    config: RunConfig,
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    trained: set[Role],
    shapes: Mapping[str, torch.Size],
    state: dict[str, Any],
) -> Checkpoint:
    """Check the gathered weights, write them to a temporary folder and rename it.

    ``trained`` are the roles that some stage has trained so far: their tensors must not be
    zero (an adapter gathered wrongly is). Experts that no stage trained yet are still zero.
    One rank calls this.

    Raises:
        LopeError: a tensor is absent, of a wrong shape, not finite or zero; the disk is full;
            or a whole checkpoint of this stage is there already.
    """
    tensors = _checked(weights, roles, trained, shapes)
    final = run_dir / "checkpoints" / f"{index}-{stage}"
    if _is_whole(final):
        raise LopeError(f"The checkpoint {final} exists already; it was left as it is.")
    staging = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        save_file({n: weights[n].contiguous() for n in roles}, staging / WEIGHTS)
        _sync(staging / WEIGHTS)
        description = {
            "format": 1,
            "sha256": _sha256(staging / WEIGHTS),
            "adapter": config.adapter.model_dump(mode="json"),
            "base_model": config.model.name_or_path,
            "tensors": tensors,
        }
        write_json(staging / DESCRIPTION, description)
        write_json(staging / STATE, state)
        write_atomic(staging / CONFIG, dump_config(config))
        shutil.rmtree(final, ignore_errors=True)  # the rest of one that was not whole
        staging.rename(final)
        _sync(final.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise LopeError(
            f"The checkpoint {final} could not be written ({error}); earlier ones are "
            "untouched. Free disk space and run again with --resume."
        ) from None
    return Checkpoint(final, index, stage)


def last_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, found by looking, or None."""
    whole = []
    for folder in (run_dir / "checkpoints").glob("[0-9]*-*"):
        index, _, stage = folder.name.partition("-")
        if index.isdigit() and _is_whole(folder):
            whole.append(Checkpoint(folder, int(index), stage))
    return max(whole, key=lambda c: c.index, default=None)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (WEIGHTS, DESCRIPTION, STATE))


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the adapter's weights by name, float32.

    Raises:
        LopeError: the file's hash is not the one recorded when it was written.
    """
    path = checkpoint.folder / WEIGHTS
    recorded = checkpoint.adapter_sha256
    if _sha256(path) != recorded:
        raise LopeError(
            f"{path} is not the file that was written (sha256 differs from {DESCRIPTION}); "
            "restore it from a copy or train again."
        )
    return load_file(path)


def install_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model whose adapters are whole (not yet partitioned).

    Raises:
        LopeError: what `load_weights` raises; a name that either lacks, or another shape.
    """
    weights = load_weights(checkpoint)
    tensors_held = adapter_tensors(model)
    for name in sorted({*tensors_held, *weights}):
        held, saved = (tensors.get(name) for tensors in (tensors_held, weights))
        if held is None or saved is None or held.shape != saved.shape:
            has, wants = ("nothing" if t is None else list(t.shape) for t in (saved, held))
            raise LopeError(
                f"The adapter does not fit the model: for '{name}' it has {has} where the model "
                f"takes {wants}; was run.yaml or adapter.safetensors replaced?"
            )
        held.data.copy_(saved)


def _checked(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    trained: set[Role],
    shapes: Mapping[str, torch.Size],
) -> dict[str, dict[str, Any]]:
    """Return shape, norm and role of each tensor after looking at every one of them."""
    described = {}
    for name, role in roles.items():
        tensor = weights.get(name)
        if tensor is None:
            raise LopeError(f"The checkpoint lacks '{name}': the gather did not deliver it.")
        if tensor.shape != shapes[name]:
            raise LopeError(
                f"'{name}' was gathered as {list(tensor.shape)}, not {list(shapes[name])}."
            )
        norm = float(torch.linalg.vector_norm(tensor.double()))
        if not math.isfinite(norm):
            raise LopeError(f"'{name}' holds values that are not finite; nothing was written.")
        if norm == 0.0 and role in trained:
            raise LopeError(f"'{name}' was trained and is all zero; nothing was written.")
        described[name] = {"shape": list(tensor.shape), "norm": norm, "role": str(role)}
    return described


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
