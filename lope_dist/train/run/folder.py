"""A run's folder: refused when taken, checked when resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import yaml

from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.side_files import (
    COST,
    MANIFEST,
    METRICS,
    RESULTS,
    ROUTER,
    SAMPLES,
    STATE,
    TRACKERS,
    set_aside,
)
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import (
    CONFIG,
    FOLDER,
    Checkpoint,
    checkpoint_defect,
)
from lope_dist.train.checkpoint.history import checkpoints, last_checkpoint, remove_leftovers
from lope_dist.train.checkpoint.method import method_differences

Resume = bool | Literal["auto"]
"""Whether to go on with the run in the folder. `auto`: start anew where none of it can be used."""
LOGS = "logs"
"""Folder with what each rank said."""
_WRITTEN = (
    *(file.name for file in (METRICS, MANIFEST, STATE, ROUTER, COST, RESULTS, TRACKERS)),
    *("tensorboard", "wandb", "mlruns", "losses", "scores", "answers", "questions", "scale.json"),
    SAMPLES.name,
    *("report.html", "plots", LOGS),
)
"""What a run and the commands that are given its folder write there, beside checkpoints."""


def open_run_folder(config: RunConfig, resume: Resume) -> Checkpoint | None:
    """Claim the run's folder; return the checkpoint to go on from, if any.

    The caller holds the folder's `run_lock`. A `run.yaml` that is lost or damaged is taken from a
    whole checkpoint. A run that was refused or stopped before its first step holds nothing yet, and
    may be started with another configuration.

    Raises:
        LopeError: a folder that cannot be written, holds a run already and no ``resume``, or
            another's files under names that the run would write; a run of a newer version; a
            resume whose configuration would change the result, with each difference; or one
            where there are checkpoints and none of them is whole.
    """
    folder = Path(config.output_dir)
    recorded = folder / CONFIG
    has_checkpoints = folder.exists() and any(folder.glob(f"{FOLDER}/*"))
    if not recorded.exists() and not (resume and has_checkpoints):
        _refuse_foreign(folder)
        _write_recorded(recorded, config)
        return None
    MANIFEST.refuse_newer(folder)
    if _has_not_begun(folder):
        remove_leftovers(folder)
        _write_recorded(recorded, config)
        return None
    if not resume:
        raise LopeError(
            f"{folder} holds a run already; add --resume to continue it, or set output_dir to "
            "another folder."
        )
    before = read_recorded(recorded.read_bytes()) if recorded.is_file() else None
    if before is None:
        before = _rescued(recorded)
    refuse_changes(before, config, folder)
    if not recorded.exists():
        _write_recorded(recorded, config)
    remove_leftovers(folder)
    for file in (STATE, ROUTER, COST):  # are written next
        file.recover(folder)
    last = last_checkpoint(folder)
    if last is None and checkpoints(folder) and resume != "auto":
        raise LopeError(
            f"{folder} holds checkpoints, and none of them is whole (see above); restore one from "
            "a copy, or start over with --resume auto."
        )
    return last


def has_begun(folder: Path) -> bool:
    """Return whether a run is in a folder whose configuration decides what is trained there."""
    is_recorded = (folder / CONFIG).is_file() or bool(checkpoints(folder))
    return is_recorded and not _has_not_begun(folder)


def _has_not_begun(folder: Path) -> bool:
    """Return whether a run was started in a folder, and no start came to its first step."""
    was_started = MANIFEST.read(folder) is not None
    return was_started and not checkpoints(folder) and not any(METRICS.read(folder))


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder without a run in which names are taken that a run writes."""
    taken = [name for name in (CONFIG, FOLDER, *_WRITTEN) if (folder / name).is_symlink()]
    taken += [name for name in (FOLDER, *_WRITTEN) if (folder / name).exists()]
    if (folder / FOLDER).is_dir() and not any((folder / FOLDER).iterdir()):
        taken.remove(FOLDER)
    if taken:
        raise LopeError(
            f"{folder} is not the folder of a run: it holds {', '.join(dict.fromkeys(taken))} and "
            f"no {CONFIG}. Nothing was touched; set output_dir to another folder."
        )


def _write_recorded(recorded: Path, config: RunConfig) -> None:
    try:
        write_atomic(recorded, dump_config(config))
    except OSError as error:
        raise LopeError(
            f"output_dir: {recorded.parent} cannot be written ({error.strerror})."
        ) from None


def _rescued(recorded: Path) -> dict[str, Any]:
    """Return the configuration of a run whose `run.yaml` is lost, from its newest checkpoint.

    Raises:
        LopeError: no checkpoint is whole.
    """
    for checkpoint in checkpoints(recorded.parent):
        if checkpoint_defect(checkpoint) is None:
            before = read_recorded((checkpoint.folder / CONFIG).read_bytes())
            assert before is not None, "a whole checkpoint has one"
            sentence = f"was taken from {checkpoint.folder}"
            if recorded.exists():
                sentence = (
                    f"is not the configuration of a run: it {set_aside(recorded)}, and {sentence}"
                )
            print(f"{recorded} {sentence}.", file=sys.stderr)
            return before
    if recorded.exists():
        raise LopeError(f"{recorded} is not the configuration of a run; restore it from a copy.")
    raise LopeError(
        f"{recorded.parent} holds checkpoints, none of them whole, and no {CONFIG}: it is not "
        "the folder of a run."
    )


def refuse_changes(before: dict[str, Any], config: RunConfig, folder: Path) -> None:
    """Refuse a configuration that would change the result of the run in a folder.

    Raises:
        LopeError: it would; tells each difference.
    """
    differences = method_differences(before, yaml.safe_load(dump_config(config)))
    if differences:
        raise LopeError(
            f"{folder} was started with another configuration ({'; '.join(differences[:6])}); "
            "resume with the same one, or set output_dir to another folder."
        )
