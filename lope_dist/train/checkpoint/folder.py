"""Checkpoints: safetensors and JSON, whole or absent, readable without DeepSpeed.

RUN/checkpoints/1-poison-step-000050/   a checkpoint in the middle of a stage
RUN/checkpoints/1-poison/               a stage's end
    adapter.safetensors      weights by logical name
    adapter.json             shapes, norms, roles, sha256
    optimizer.safetensors    AdamW's state by parameter name
    state.json               how far the run is, fingerprints
    run.yaml                 the resolved configuration
    MANIFEST.json            size and sha256 of each of these

Which of them are there, and which is the last one, is found by looking: `history.py`.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from lope_dist.adapters.lope import adapter_tensors
from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError, NewerFormat
from lope_dist.core.files import write_atomic
from lope_dist.core.roles import Role
from lope_dist.core.runlog import write_json
from lope_dist.train.checkpoint.descriptions import (
    DESCRIPTION,
    DESCRIPTION_FORMAT,
    STATE,
    parse_state,
    read_description,
    read_recorded,
)
from lope_dist.train.checkpoint.integrity import defect, publish, read_sealed, seal
from lope_dist.train.checkpoint.method import method_differences

WEIGHTS, OPTIMIZER, CONFIG = "adapter.safetensors", "optimizer.safetensors", "run.yaml"
FOLDER = "checkpoints"
_NAME = re.compile(r"(\d+)-(.+?)(?:-step-(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A place for a checkpoint on disk."""

    folder: Path
    index: int
    """Position of its stage, from 1."""
    stage: str
    step: int | None = None
    """Steps of the stage that are done; None at its end."""

    @property
    def order(self) -> tuple[int, float]:
        """How far the run was: the larger, the later."""
        return self.index, math.inf if self.step is None else self.step

    @property
    def adapter_sha256(self) -> str:
        """The hash of the adapter's file, as verified when it was written."""
        return read_description(self.folder)["sha256"]


def checkpoint_at(run_dir: Path, index: int, stage: str, step: int | None = None) -> Checkpoint:
    """Return where the checkpoint of a stage, at its end or after ``step`` steps, belongs."""
    name = f"{index}-{stage}" + ("" if step is None else f"-step-{step:06d}")
    return Checkpoint(run_dir / FOLDER / name, index, stage, step)


def checkpoint_in(folder: Path) -> Checkpoint | None:
    """Return what a folder's name says it is, None if it is no checkpoint's."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        return None
    step = None if match[3] is None else int(match[3])
    return Checkpoint(folder, int(match[1]), match[2], step)


def checkpoint_defect(
    checkpoint: Checkpoint, run_config: dict[str, Any] | None = None
) -> str | None:
    """Return why a checkpoint is not whole, None if it is. Reads all of its files.

    With ``run_config``, the run's configuration, one that was written with another is foreign.

    Raises:
        NewerFormat: a newer version of the program has written it.
    """
    needed = [WEIGHTS, DESCRIPTION, STATE, CONFIG]
    if checkpoint.step is not None:
        needed.append(OPTIMIZER)
    for name in needed:
        if not (checkpoint.folder / name).is_file():
            return f"{name} is missing"
    if reason := defect(checkpoint.folder):
        return reason
    try:
        read_state(checkpoint)
        read_description(checkpoint.folder)
        saved_config = read_recorded(read_sealed(checkpoint.folder, CONFIG))
    except NewerFormat:
        raise
    except LopeError as error:
        return str(error).rstrip(".")
    if saved_config is None:
        return f"{CONFIG} is no configuration"
    differences = (
        []
        if run_config is None
        else method_differences(run_config, saved_config, of_checkpoint=True)
    )
    return f"it is of another run ({'; '.join(differences[:6])})" if differences else None


@dataclass(frozen=True)
class Adapter:
    """A model's adapter, gathered whole."""

    weights: Mapping[str, Tensor]
    roles: Mapping[str, Role]
    shapes: Mapping[str, torch.Size]
    trained: set[Role]
    """Roles that were trained so far: their tensors must not be zero (an adapter gathered
    wrongly is). Experts that no stage trained yet are still zero."""


def save_checkpoint(
    checkpoint: Checkpoint,
    config: RunConfig,
    adapter: Adapter,
    state: dict[str, Any],
    optimizer: Mapping[str, Tensor] | None = None,
) -> None:
    """Check the adapter, write everything to a temporary folder, seal and rename it.

    What is there under its name and is damaged or foreign is replaced. One rank calls this.

    Raises:
        LopeError: a tensor is absent, of a wrong shape, not finite or zero; the disk is full;
            or a whole checkpoint of this run is there already.
    """
    tensors = _checked(adapter)
    final = checkpoint.folder
    run_config = config.model_dump(mode="json")
    if final.exists() and checkpoint_defect(checkpoint, run_config) is None:
        raise LopeError(f"The checkpoint {final} exists already; it was left as it is.")
    staging = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file({n: adapter.weights[n].contiguous() for n in adapter.roles}, staging / WEIGHTS)
        if optimizer is not None:
            save_file(dict(optimizer), staging / OPTIMIZER)
        description = {
            "format": DESCRIPTION_FORMAT,
            "sha256": hashlib.sha256((staging / WEIGHTS).read_bytes()).hexdigest(),
            "adapter": config.adapter.model_dump(mode="json"),
            "base_model": config.model.name_or_path,
            "tensors": tensors,
        }
        write_json(staging / DESCRIPTION, description)
        write_json(staging / STATE, state)
        write_atomic(staging / CONFIG, dump_config(config))
        seal(staging)
        shutil.rmtree(final, ignore_errors=True)  # the rest of one that was not whole
        publish(staging, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise LopeError(
            f"The checkpoint {final} could not be written ({error}); earlier ones are "
            "untouched. Free disk space and run again with --resume."
        ) from None


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint's `state.json`, its hash checked; see `descriptions.parse_state`."""
    return parse_state(read_sealed(checkpoint.folder, STATE), checkpoint.folder / STATE)


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the adapter's weights by name, float32.

    Raises:
        LopeError: the file's hash is not the one recorded when it was written.
    """
    return _load_tensors(checkpoint.folder, WEIGHTS)


def load_optimizer(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the optimizer's state, as `Engine.load_optimizer_state` takes it.

    Raises:
        LopeError: the file's hash is not the one recorded when it was written.
    """
    return _load_tensors(checkpoint.folder, OPTIMIZER)


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


def _load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    try:
        return load(read_sealed(folder, name))
    except SafetensorError as error:
        raise LopeError(f"{folder / name} is not a safetensors file ({error}).") from None


def _checked(adapter: Adapter) -> dict[str, dict[str, Any]]:
    """Return shape, norm and role of each tensor after looking at every one of them."""
    described = {}
    for name, role in adapter.roles.items():
        tensor, shape = adapter.weights.get(name), adapter.shapes[name]
        if tensor is None:
            raise LopeError(f"The checkpoint lacks '{name}': the gather did not deliver it.")
        if tensor.shape != shape:
            raise LopeError(f"'{name}' was gathered as {list(tensor.shape)}, not {list(shape)}.")
        norm = float(torch.linalg.vector_norm(tensor.double()))
        if not math.isfinite(norm):
            raise LopeError(f"'{name}' holds values that are not finite; nothing was written.")
        is_prunable = role == Role.ADAPTER  # AdaLoRA may leave a layer no rank at all
        if norm == 0.0 and role in adapter.trained and not is_prunable:
            raise LopeError(f"'{name}' was trained and is all zero; nothing was written.")
        described[name] = {"shape": list(tensor.shape), "norm": norm, "role": str(role)}
    return described
