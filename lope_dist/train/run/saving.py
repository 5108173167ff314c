"""A checkpoint lands where the configuration says, whatever became of the folders meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lope_dist.config.load import dump_config
from lope_dist.core.console import tell
from lope_dist.core.errors import LopeError
from lope_dist.core.files import telling_disk_errors, write_atomic
from lope_dist.train.checkpoint.folder import CONFIG, Adapter, Checkpoint, save_checkpoint
from lope_dist.train.run.lock import RunHold
from lope_dist.train.run.setup import Inputs


def save_where_named(
    session: Inputs,
    checkpoint: Checkpoint,
    adapter: Adapter,
    state: dict[str, Any],
    optimizer: Mapping[str, Tensor],
) -> None:
    """Save a checkpoint; where the folders went away before or meanwhile, save it anew and say so.

    One rank calls this.

    Raises:
        LopeError: what `save_checkpoint` raises; or the run's folder, or that of its checkpoints,
            was removed or renamed. The checkpoint is there anew.
    """
    hold = session.hold
    assert hold is not None, "the rank that saves holds the folder"

    def save() -> None:
        save_checkpoint(checkpoint, session.config, adapter, state, optimizer)

    if (lost := hold.lost()) is None:
        _tell_lost_checkpoint(hold)
        with telling_disk_errors(session.run_dir):
            hold.take(checkpoint.folder.parent)
        try:
            save()
        except LopeError:
            if hold.lost() is None:
                raise
        lost = hold.lost()
    if lost is None:
        hold.newest = checkpoint.folder
        return
    with telling_disk_errors(session.run_dir):
        if not (session.run_dir / CONFIG).exists():
            write_atomic(session.run_dir / CONFIG, dump_config(session.config))
    save()
    raise LopeError(
        f"{lost} was removed or renamed while the run wrote there. The run's state is now in a new "
        f"checkpoint, {checkpoint.folder}: go on with --resume, or put the old folder back first."
    )


def check_last_is_there(session: Inputs) -> None:
    """Refuse to call a run finished whose last checkpoint is gone. One rank calls this.

    Raises:
        LopeError: it was removed or renamed since it was written.
    """
    hold = session.hold
    assert hold is not None, "the rank that saves holds the folder"
    if hold.newest is not None and not hold.newest.is_dir():
        raise LopeError(
            f"{hold.newest} was removed or renamed after this run wrote it, so the trained adapter "
            "is not there: put the folder back, or go on with --resume, which trains from the "
            "checkpoint before it."
        )


def _tell_lost_checkpoint(hold: RunHold) -> None:
    if hold.newest is not None and not hold.newest.is_dir():
        tell(f"{hold.newest} is not there any more: somebody removed or renamed it.")
        hold.newest = None
