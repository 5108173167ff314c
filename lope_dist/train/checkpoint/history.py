"""A run's checkpoints, found by looking: which is the last whole one, and which may go.

No pointer file is kept: it could name a checkpoint that is torn, or not the newest.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.files import remove_torn
from lope_dist.core.side_files import COST, MANIFEST, METRICS, ROUTER, STATE
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import (
    CONFIG,
    FOLDER,
    Checkpoint,
    checkpoint_defect,
    checkpoint_in,
)

STAGE_END = "STAGE_END"
"""A file in a checkpoint that was a stage's end until the stage was extended."""


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Return what looks like a checkpoint, the latest first; whole or not."""
    named = [checkpoint_in(path) for path in (run_dir / FOLDER).glob("[0-9]*-*") if path.is_dir()]
    return sorted((c for c in named if c is not None), key=lambda c: c.order, reverse=True)


def last_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return a run's last whole checkpoint, None if it has none.

    A truncated, changed or foreign checkpoint is named on stderr and skipped.
    """
    recorded = run_dir / CONFIG
    run_config = read_recorded(recorded.read_bytes()) if recorded.is_file() else None
    for checkpoint in checkpoints(run_dir):
        reason = checkpoint_defect(checkpoint, run_config)
        if reason is None:
            return checkpoint
        print(f"Checkpoint {checkpoint.folder} is passed over: {reason}.", file=sys.stderr)
    return None


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return a run's newest checkpoint, None if there is none.

    Raises:
        LopeError: it is not whole.
    """
    checkpoint = next(iter(checkpoints(run_dir)), None)
    if checkpoint is not None and (reason := checkpoint_defect(checkpoint)):
        raise LopeError(
            f"The checkpoint {checkpoint.folder} is damaged: {reason}; restore it from a copy, or "
            "resume the run, which trains on from the last whole one."
        )
    return checkpoint


def prune(
    run_dir: Path, newest: Checkpoint, keep_last: int, best: tuple[int, int] | None = None
) -> None:
    """Remove checkpoints in the middle of stages but the last few up to ``newest``, a whole one.

    One that was a stage's end is none of them.
    ``best``: stage (from 1) and step of one that stays whatever its age.
    """
    older = [
        c
        for c in checkpoints(run_dir)
        if c.step is not None and c.order <= newest.order and not (c.folder / STAGE_END).exists()
    ]
    for checkpoint in older[keep_last:]:
        if (checkpoint.index, checkpoint.step) == best:
            continue
        # Under its own name a half-removed one would look like a damaged one.
        doomed = checkpoint.folder.with_name(f".{checkpoint.folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        with suppress(FileNotFoundError):  # somebody else has removed it just now
            checkpoint.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed process left half-written or half-removed; no run writes here now."""
    for name in (CONFIG, *(file.name for file in (METRICS, MANIFEST, STATE, ROUTER, COST))):
        remove_torn(run_dir / name)
    for pattern in (".*.partial", ".*.old"):
        for path in (run_dir / FOLDER).glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
