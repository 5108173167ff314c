"""`--extend STAGE=N`: a run that is finished or was stopped goes on to more epochs or steps.

N is what the stage has in all, so that a command that is started again extends nothing twice. The
checkpoint at the stage's end becomes one in its middle, from which the run goes on as from any
other: with the optimizer's state, and at the learning rate of a schedule over all steps.
"""

from __future__ import annotations

import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lope_dist.config.baselines import AdaLoraConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.files import write_atomic
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import CONFIG, OPTIMIZER, checkpoint_at, read_state
from lope_dist.train.checkpoint.history import STAGE_END, checkpoints, last_checkpoint
from lope_dist.train.run.folder import refuse_changes
from lope_dist.train.run.setup import Inputs, stage_loader


class Extension(NamedTuple):
    """A stage that is to have more."""

    stage: str
    key: str
    """`epochs`, or `max_steps` where the stage has a number of steps."""
    count: int


def parse_extension(config: RunConfig, text: str) -> tuple[RunConfig, Extension]:
    """Return the configuration with the longer stage, and what was asked for.

    Raises:
        LopeError: no such stage, no number, or an adapter whose schedule is one of fixed length.
    """
    name, _, count = text.partition("=")
    stages = config.train.stages
    if name not in stages or not (count.isascii() and count.isdigit() and int(count) > 0):
        raise LopeError(
            f"--extend {text}: write STAGE=N, with N epochs (or steps, where the stage has "
            f"max_steps) in all; stages: {', '.join(stages)}.{suggest(name, stages)}"
        )
    if isinstance(config.adapter, AdaLoraConfig):
        raise LopeError(
            "--extend: AdaLoRA plans its ranks over the steps of its stage; start a new run with "
            "more steps."
        )
    stage = stages[name]
    key = "epochs" if stage.max_steps is None else "max_steps"
    longer = stages | {name: stage.model_copy(update={key: int(count)})}
    train = config.train.model_copy(update={"stages": longer})
    return config.model_copy(update={"train": train}), Extension(name, key, int(count))


def extend_folder(inputs: Inputs, extension: Extension) -> dict[str, Any]:
    """Make a run's folder ready to go on; return what the manifest says of it. One rank calls this.

    Args:
        inputs: Those of the configuration that `parse_extension` returned.
        extension: The same.

    Raises:
        LopeError: no run there, another configuration, a stage that has as much or more, more
            steps than its epochs have, one that a later stage went on from, or one whose optimizer
            was not kept.
    """
    config, (name, key, count) = inputs.config, extension
    folder = inputs.run_dir
    path = folder / CONFIG
    before = read_recorded(path.read_bytes()) if path.is_file() else None
    if before is None:
        raise LopeError(f"--extend {name}={count}: {folder} holds no run to go on with.")
    held = (before["train"]["stages"].get(name) or {}).get(key)
    longer = deepcopy(before)
    if held is not None:
        longer["train"]["stages"][name][key] = count
    refuse_changes(longer, config, folder)
    assert held is not None, "the same configuration but for this value"
    if count < held:
        raise LopeError(
            f"--extend {name}={count}: the run has {key} = {held} already; give a larger number."
        )
    index = list(config.train.stages).index(name) + 1
    later = [saved for saved in checkpoints(folder) if saved.index > index]
    if later and count > held:
        raise LopeError(
            f"--extend {name}={count}: the run has trained '{later[-1].stage}' after '{name}' "
            "already; extend the last stage, or start a new run in another output_dir."
        )
    num_steps = stage_loader(inputs, config.train.stages[name]).num_steps
    if key == "max_steps" and count > max(held, num_steps):
        raise LopeError(
            f"--extend {name}={count}: train.stages.{name}.epochs = "
            f"{config.train.stages[name].epochs} end after {num_steps} steps; give no more than "
            "these, or start a new run with more epochs in another output_dir."
        )
    notes = {} if later else _open_end(folder, extension, index)
    if count > held:
        write_atomic(path, yaml.safe_dump(longer, sort_keys=False, allow_unicode=True))
    return notes


def _open_end(folder: Path, extension: Extension, index: int) -> dict[str, Any]:
    """Tell from where a longer stage goes on; what was its end becomes a checkpoint in its middle.

    Nothing is told where it has not begun, or has gone on already.
    """
    name, key, count = extension
    last = last_checkpoint(folder)
    if last is None or last.index < index:
        return {}
    recorded = read_recorded((last.folder / CONFIG).read_bytes())
    assert recorded is not None, "a whole checkpoint has one"
    held, step = recorded["train"]["stages"][name][key], read_state(last)["next_step"]
    if held == count:
        return {}
    if not (last.folder / OPTIMIZER).is_file():
        raise LopeError(
            f"--extend {name}={count}: {last.folder} has no {OPTIMIZER}, because an older version "
            "wrote it; start a new run in another output_dir."
        )
    if last.step is None:
        middle = checkpoint_at(folder, index, name, step)
        shutil.rmtree(middle.folder, ignore_errors=True)
        (last.folder / STAGE_END).touch()
        last.folder.rename(middle.folder)
    unit = "epochs" if key == "epochs" else "steps"
    print(
        f"Stage {name} is extended from {held} to {count} {unit}: it goes on after step {step} "
        "with its optimizer's state. Its learning rate is that of one schedule over all of them, "
        "so it may rise again.",
        file=sys.stderr,
    )
    return {"extended": {"stage": name, key: [held, count], "after": step}}
