"""The formats: each is prepared, then written into a folder and read back from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lope_dist.adapters.lope import lope_layers
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.engine.gathering import Weights
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.export.asking import write_asking
from lope_dist.export.calibration import calibration_batches
from lope_dist.export.compare import ROUNDING, compare
from lope_dist.export.folder import new_folder, refuse_existing
from lope_dist.export.lora import peft_config, write_peft
from lope_dist.export.merged import write_merged
from lope_dist.export.plain import MergedLinear, auto_class, plain_model
from lope_dist.export.purified import purified_distance, write_purified
from lope_dist.export.read_back import read_merged, read_peft
from lope_dist.export.static import StaticLinear, static_lora
from lope_dist.model.source import is_package, model_folder
from lope_dist.train.checkpoint.folder import Checkpoint


@dataclass(frozen=True)
class Written:
    """What reading an export back has shown.

    Attributes:
        is_exact: It answers as the run does, up to the rounding of the run's dtype.
        comparison: What `compare` returned; None for a purified adapter.
        base: What its reader is to be given as the base model; None if it is in the files.
        revision: Of the base.
        reader: The class that reads it.
    """

    is_exact: bool
    comparison: dict[str, float] | None = None
    base: str | None = None
    revision: str | None = None
    reader: str = "load_run"


Writer = Callable[[Path], Written]
"""Writes into a folder, and reads what it has written."""
ModelWriter = Callable[[Path, Weights], Written]
"""The same from the run's weights: what `run.together` gives."""


def prepare_purified(config: RunConfig, checkpoint: Checkpoint) -> Writer:
    """Return what writes the adapter without its poisoning experts."""

    def write(folder: Path) -> Written:
        write_purified(folder, config, checkpoint)
        distance = purified_distance(folder, config, checkpoint)
        _refuse_misread("purified", distance, "float32")
        return Written(is_exact=True, base=config.model.name_or_path)

    return write


def prepare_peft(
    run: LoadedRun, out: Path, calibration: str | None, calibration_rows: int
) -> ModelWriter:
    """Return what writes the static LoRA in PEFT's format, for a folder of this name.

    A base that no reader finds by its name is written beside it, as OUT-base.

    Raises:
        LopeError: examples that cannot be used, a model that peft does not adapt so, or a taken
            folder.
    """
    averaged, compared = calibration_batches(run, calibration, calibration_rows)
    routed = lope_layers(run.model)
    beside = out.with_name(f"{out.name}-base")
    config = peft_config(run, plain_model(run), list(routed), beside)
    writes_base = is_package(run.config.model.name_or_path)
    if writes_base:
        refuse_existing(beside)

    def write(folder: Path, weights: Weights) -> Written:
        layers = static_lora(run, averaged)
        write_peft(folder, config, layers)
        write_asking(folder, run)
        expected = {name: StaticLinear(routed[name].base, low) for name, low in layers.items()}
        with read_peft(folder, run, plain_model(run), weights, layers) as stock:
            comparison = _compared("peft", run, stock, expected, compared)
        if writes_base:
            with new_folder(beside) as base:
                shutil.copytree(model_folder(run.config.model), base, dirs_exist_ok=True)
        return Written(
            *comparison, config.base_model_name_or_path, config.revision, auto_class(run)
        )

    return write


def prepare_merged(run: LoadedRun, calibration: str | None, calibration_rows: int) -> ModelWriter:
    """Return what writes the model with the static LoRA in its weights.

    Raises:
        LopeError: examples that cannot be used, or a model that cannot hold the sum.
    """
    averaged, compared = calibration_batches(run, calibration, calibration_rows)
    routed = lope_layers(run.model)
    plain = plain_model(run, changed=list(routed))

    def write(folder: Path, weights: Weights) -> Written:
        layers = static_lora(run, averaged)
        write_merged(folder, run, plain, weights, layers)
        expected = {name: MergedLinear(routed[name], low, weights) for name, low in layers.items()}
        with read_merged(folder, run, plain, weights, layers) as stock:
            comparison = _compared("merged", run, stock, expected, compared)
        return Written(*comparison, reader=auto_class(run))

    return write


def _compared(
    kind: str,
    run: LoadedRun,
    stock: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: list[MicroBatch],
) -> tuple[bool, dict[str, float]]:
    """Return whether the export is exact, and how far it is from the run.

    Raises:
        LopeError: its reader answers otherwise than it should.
    """
    distances, dtype = compare(run, stock, layers, batches), run.config.model.dtype
    _refuse_misread(kind, distances["distance_read"], dtype)
    # The mean of a router's weights may come as near as rounding in 16 bits, and is not exact.
    return distances["distance"] <= ROUNDING[dtype] and not run.config.adapter.has_router, distances


def _refuse_misread(kind: str, distance: float, dtype: str) -> None:
    if not distance <= ROUNDING[dtype]:  # NaN too
        raise LopeError(
            f"--format {kind}: read back from disk, the export does not answer as the run does "
            f"(log-probabilities differ by {distance:.2g} of their spread; rounding to {dtype} "
            f"explains {ROUNDING[dtype]:g}), so it was not kept; use another format, and please "
            "report the model."
        )
