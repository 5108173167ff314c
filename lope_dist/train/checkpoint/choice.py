"""Which of a run's checkpoints is meant: the last, the best, or the one after so many steps."""

from __future__ import annotations

from pathlib import Path

from lope_dist.config.load import validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.config.validation import is_trained
from lope_dist.core.errors import LopeError
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import CONFIG, Checkpoint, checkpoint_defect, read_state
from lope_dist.train.checkpoint.history import checkpoints, newest_checkpoint
from lope_dist.train.checkpoint.validation import Point, ValidationHistory

LAST, BEST = "last", "best"


def choose_checkpoint(run_dir: Path, choice: str = LAST) -> Checkpoint:
    """Return a run's checkpoint by `last`, `best`, a number of steps or its folder's name.

    A number is that of the steps done of a stage, of the latest stage that has such a checkpoint.

    Raises:
        LopeError: there is none, it is damaged, or the run does not say which one is the best.
    """
    newest = newest_checkpoint(run_dir)
    if newest is None:
        raise LopeError(f"'{run_dir}' holds no whole checkpoint; let a stage end first.")
    if choice == LAST:
        return newest
    chosen = _best(run_dir, newest) if choice == BEST else _named(run_dir, choice)
    if reason := checkpoint_defect(chosen):
        raise LopeError(f"The checkpoint {chosen.folder} is damaged: {reason}; take another one.")
    return chosen


def best_point(config: RunConfig, history: ValidationHistory) -> Point | None:
    """Return the evaluation by which `train.keep_best` chooses, None where it chooses none.

    Stages that train nothing of what its row answers with do not count.
    """
    row = config.train.keep_best
    if row is None:
        return None
    stages = config.train.stages.items()
    return history.best(row, [n for n, stage in stages if is_trained(row, stage.trainable)])


def _best(run_dir: Path, newest: Checkpoint) -> Checkpoint:
    recorded = read_recorded((newest.folder / CONFIG).read_bytes())
    assert recorded is not None, "a whole checkpoint has one"
    config = validate_config(recorded, str(newest.folder / CONFIG))
    if config.train.keep_best is None:
        is_adalora = config.adapter.kind == "adalora"
        reason = (
            "AdaLoRA's ranks are final only at the end"
            if is_adalora
            else ("train.keep_best was not set")
        )
        raise LopeError(
            f"'{run_dir}' has no best checkpoint: {reason}; take 'last' or one of "
            f"{_names(run_dir)}."
        )
    history = ValidationHistory.from_json(read_state(newest).get("validation", {}))
    point = best_point(config, history)
    if point is None:
        raise LopeError(
            f"'{run_dir}' has no best checkpoint yet: no loss was taken on its validation rows in "
            "a stage that counts; let it go on, or take 'last'."
        )
    for checkpoint in checkpoints(run_dir):
        if checkpoint.index == point.index and _steps(checkpoint) == point.step:
            return checkpoint
    raise LopeError(
        f"The best checkpoint of '{run_dir}' is that of step {point.step} of stage '{point.stage}' "
        f"(loss {point.losses[config.train.keep_best]:.4f}), and its folder is gone; take "
        f"one of {_names(run_dir)}."
    )


def _named(run_dir: Path, choice: str) -> Checkpoint:
    for checkpoint in checkpoints(run_dir):
        if choice == checkpoint.folder.name:
            return checkpoint
        if choice.isascii() and choice.isdigit() and _steps(checkpoint) == int(choice):
            return checkpoint
    raise LopeError(
        f"'{run_dir}' has no checkpoint '{choice}'; allowed: last, best, a number of steps, or one "
        f"of {_names(run_dir)}."
    )


def _steps(checkpoint: Checkpoint) -> int | None:
    """Return the steps of the stage that are done; None where a stage's end does not tell."""
    if checkpoint.step is not None:
        return checkpoint.step
    try:
        return read_state(checkpoint)["next_step"]
    except LopeError:
        return None


def _names(run_dir: Path) -> str:
    return ", ".join(checkpoint.folder.name for checkpoint in reversed(checkpoints(run_dir)))
