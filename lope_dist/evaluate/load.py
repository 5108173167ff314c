"""A run folder -> the adapted model on one process, ready to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.purify import purify
from lope_dist.config.load import load_config
from lope_dist.config.model import ModelConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.attention import FLASH, flash_runs_here
from lope_dist.model.build import load_model, load_tokenizer
from lope_dist.model.families import family_of
from lope_dist.model.placement import Replicated
from lope_dist.train.checkpoint import (
    CONFIG,
    Checkpoint,
    install_checkpoint,
)
from lope_dist.train.choice import LAST, choose_checkpoint
from lope_dist.train.descriptions import DESCRIPTION, read_description
from lope_dist.train.preflight import adapt

PURIFIED = "purified"
"""The stage of a purified export's checkpoint."""


@dataclass(frozen=True)
class LoadedRun:
    """A trained run in memory; `context.experts` says which experts take part."""

    config: RunConfig
    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: AdapterContext


def load_run(
    run_dir: Path, *, checkpoint: Checkpoint | None = None, progress: bool = True
) -> LoadedRun:
    """Load base model and adapter: of a run's last whole checkpoint, or of a purified export.

    Args:
        run_dir: A run's folder, or a purified export.
        checkpoint: What `run_checkpoint` gave earlier, for a caller that has written down which it
            was: a run that goes on meanwhile may have a newer one. None: look for it now.
        progress: Show a bar; of several ranks, one should.

    Raises:
        LopeError: neither of them, no whole checkpoint, or an adapter that does not fit.
    """
    config = load_run_config(run_dir)
    checkpoint = checkpoint or run_checkpoint(run_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(_runnable_here(config.model), Replicated(device), progress=progress)
    context = adapt(model, config, family_of(model))
    context.compensation = config.adapter.compensation
    if checkpoint.stage == PURIFIED:
        purify(model, context)
    install_checkpoint(model, checkpoint)
    model.eval()
    return LoadedRun(config, checkpoint, model, load_tokenizer(config.model), context)


def _runnable_here(config: ModelConfig) -> ModelConfig:
    """Return the model's settings without FlashAttention where this host does not have it."""
    if config.attention != FLASH or flash_runs_here(config.dtype):
        return config
    return config.model_copy(update={"attention": "auto"})


def run_checkpoint(run_dir: Path, wanted: str = LAST) -> Checkpoint:
    """Return a run's checkpoint by what `choose_checkpoint` takes, or the purified export itself.

    Raises:
        LopeError: there is no such checkpoint, it is damaged, or a purified export, which is one.
    """
    if (run_dir / DESCRIPTION).is_file() and "purified" in read_description(run_dir):
        if wanted != LAST:
            raise LopeError(
                f"--checkpoint {wanted}: '{run_dir}' is a purified export, which holds one "
                "adapter; leave the option out."
            )
        return Checkpoint(run_dir, 0, PURIFIED)
    return choose_checkpoint(run_dir, wanted)


def load_run_config(run_dir: Path) -> RunConfig:
    """Read the configuration that a run was trained with.

    Raises:
        LopeError: not a run folder.
    """
    if not (run_dir / CONFIG).is_file():
        raise LopeError(f"'{run_dir}' is not a run: it holds no {CONFIG}.")
    return load_config(run_dir / CONFIG)
