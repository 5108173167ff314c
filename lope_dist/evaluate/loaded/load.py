"""A run folder -> the adapted model, ready to be asked, on one process or spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.purify import purify
from lope_dist.adapters.rows import PLAIN
from lope_dist.config.model import ModelConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.engine.exchange import refuse_unlike
from lope_dist.engine.gathering import Weights, gathering
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.placing import placement_for
from lope_dist.evaluate.loaded.rows import rows_for, usual_answer
from lope_dist.model.attention import FLASH, flash_runs_here
from lope_dist.model.build import load_model, load_tokenizer
from lope_dist.model.families import family_of
from lope_dist.model.fingerprint import fingerprints
from lope_dist.model.slow_dtype import tell_slow_dtype
from lope_dist.train.checkpoint.choice import LAST, choose_checkpoint
from lope_dist.train.checkpoint.descriptions import DESCRIPTION, read_description
from lope_dist.train.checkpoint.folder import CONFIG, Checkpoint, install_checkpoint
from lope_dist.train.checkpoint.recorded import load_recorded
from lope_dist.train.checkpoint.same_base import refuse_other_base
from lope_dist.train.premises.preflight import adapt

PURIFIED = "purified"
"""The stage of a purified export's checkpoint."""
BASE = "base"
"""The stage of what is no checkpoint: a base model alone."""


@dataclass(frozen=True)
class LoadedRun:
    """A trained run in memory; `context.answer` says which experts take part.

    Attributes:
        run_dir: Its folder, or that of a purified export.
        config: The run's.
        checkpoint: Which one was read.
        model: Base and adapter. Ask it within `together`.
        tokenizer: The base's.
        context: Which experts take part, and how.
        world: The ranks that have loaded it together; None: this process alone.
    """

    run_dir: Path
    config: RunConfig
    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: AdapterContext
    world: World | None = None

    @contextmanager
    def together(self) -> Iterator[Weights]:
        """Context in which the model may be asked, whatever the other ranks ask theirs.

        What it gives makes weights whole for one who reads them.

        Where the base is spread over the ranks, a rank that has come to the block's end goes on
        gathering for the others until all have. Not to be nested.

        Collective: yes, with a world.
        """
        with torch.no_grad(), gathering(self.model, self.world) as weights:
            yield weights


def load_run(
    run_dir: str | Path,
    *,
    experts: str | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
    world: World | None = None,
    base: str = "auto",
) -> LoadedRun:
    """Load base model and adapter: of a run's last whole checkpoint, or of a purified export.

    Args:
        run_dir: A run's folder, or a purified export.
        experts: The row to answer as, a word of `rows_for`; None: `masked`, as an export does, or
            `all` where there is no poisoning expert.
        checkpoint: What `run_checkpoint` gave earlier, for a caller that has written down which it
            was: a run that goes on meanwhile may have a newer one. None: look for it now.
        progress: Show a bar; of several ranks, one should.
        world: The ranks that load it together; None: this process alone.
        base: Whether each rank holds the base `whole`, its part (`sharded`), or (`auto`) whole
            where that fits.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: neither of them, no whole checkpoint, an adapter that does not fit, experts
            that the run does not have, a base model that is not the one that was trained on, or
            ranks with different ones.
    """
    run_dir = Path(run_dir)
    config = load_run_config(run_dir)
    checkpoint = checkpoint or run_checkpoint(run_dir)
    is_purified = checkpoint.stage == PURIFIED
    word = experts or usual_answer(config.adapter, is_purified=is_purified)
    row = rows_for([word], config.adapter, is_purified=is_purified)[0]

    def check(now: Mapping[str, str]) -> None:
        refuse_other_base(run_dir, checkpoint, config.model, now)

    model, tokenizer = _loaded(config.model, check, world=world, base=base, progress=progress)
    context = adapt(model, config, family_of(model))
    if is_purified:
        purify(model, context)
    install_checkpoint(model, checkpoint)
    context.answer_as(row)
    model.eval()
    return LoadedRun(run_dir, config, checkpoint, model, tokenizer, context, world)


def load_base(
    config: RunConfig, *, progress: bool = True, world: World | None = None, base: str = "auto"
) -> LoadedRun:
    """Load a configuration's base model without any adapter; it answers as `none` alone.

    Collective: yes, with a ``world``.
    """
    model, tokenizer = _loaded(config.model, None, world=world, base=base, progress=progress)
    model.eval()
    context = AdapterContext(num_normal=1, num_poison=0, compensation=PLAIN)
    folder = Path(config.output_dir)
    checkpoint = Checkpoint(folder, 0, BASE)
    return LoadedRun(folder, config, checkpoint, model, tokenizer, context, world)


def _loaded(
    config: ModelConfig,
    check: Callable[[Mapping[str, str]], None] | None,
    *,
    world: World | None,
    base: str,
    progress: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    settings, tokenizer = _runnable_here(config), load_tokenizer(config)
    hashes = fingerprints(config, tokenizer)
    remedy = "give all hosts the same base model: one shared cache, or equal copies"
    refuse_unlike(hashes, world, remedy)
    if check is not None:
        on_main = world.on_main if world is not None else lambda action: action()
        on_main(lambda: check(hashes))
    if progress:
        tell_slow_dtype(settings.dtype)
    placement = placement_for(settings, base, world)
    return load_model(settings, placement, progress=progress), tokenizer


def _runnable_here(config: ModelConfig) -> ModelConfig:
    """Return the model's settings without FlashAttention where this host does not have it."""
    if config.attention != FLASH or flash_runs_here(config.dtype):
        return config
    return config.model_copy(update={"attention": "auto"})


def run_checkpoint(run_dir: Path, which: str = LAST) -> Checkpoint:
    """Return a run's checkpoint by what `choose_checkpoint` takes, or the purified export itself.

    Raises:
        LopeError: there is no such checkpoint, it is damaged, or a purified export, which is one.
    """
    if (run_dir / DESCRIPTION).is_file() and "purified" in read_description(run_dir):
        if which != LAST:
            raise LopeError(
                f"--checkpoint {which}: '{run_dir}' is a purified export, which holds one "
                "adapter; leave the option out."
            )
        return Checkpoint(run_dir, 0, PURIFIED)
    return choose_checkpoint(run_dir, which)


def load_run_config(run_dir: Path) -> RunConfig:
    """Read the configuration that a run was trained with.

    Raises:
        LopeError: not a run folder.
    """
    if not (run_dir / CONFIG).is_file():
        raise LopeError(
            f"'{run_dir}' is not a run: it holds no {CONFIG}; give the folder that `lope train` "
            "wrote."
        )
    return load_recorded(run_dir / CONFIG)
