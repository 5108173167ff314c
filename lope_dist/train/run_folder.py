"""A run's folder: refused when taken, checked when resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.train.checkpoint import CONFIG, FOLDER, Checkpoint
from lope_dist.train.history import checkpoints, last_checkpoint, remove_leftovers
from lope_dist.train.method import method_differences

Resume = bool | Literal["auto"]
"""Whether to go on with the run in the folder. `auto`: start anew where none of it can be used."""


def open_run_folder(config: RunConfig, resume: Resume) -> Checkpoint | None:
    """Claim the run's folder; return the checkpoint to go on from, if any.

    The caller holds the folder's `run_lock`.

    Raises:
        LopeError: a folder that cannot be written, or holds a run already and no ``resume``;
            a resume whose configuration would change the result, with each difference; or
            one where there are checkpoints and none of them is whole.
    """
    folder = Path(config.output_dir)
    recorded = folder / CONFIG
    if not recorded.exists():
        if folder.exists() and any(folder.glob(f"{FOLDER}/*")):
            raise LopeError(f"{folder} holds checkpoints but no {CONFIG}: it is not a run of ours.")
        try:
            write_atomic(recorded, dump_config(config))
        except OSError as error:
            raise LopeError(f"output_dir: {folder} cannot be written ({error.strerror}).") from None
        return None
    if not resume:
        raise LopeError(
            f"{folder} holds a run already; add --resume to continue it, or set output_dir "
            "to another folder."
        )
    _refuse_changes(_read(recorded), config, folder)
    remove_leftovers(folder)
    last = last_checkpoint(folder)
    if last is None and checkpoints(folder) and resume != "auto":
        raise LopeError(
            f"{folder} holds checkpoints, and none of them is whole (see above); restore one from "
            "a copy, or start over with --resume auto."
        )
    return last


def _read(recorded: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(recorded.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        tree = None
    if not isinstance(tree, dict):
        raise LopeError(f"{recorded} is not the configuration of a run; restore it from a copy.")
    return tree


def _refuse_changes(before: dict[str, Any], config: RunConfig, folder: Path) -> None:
    differences = method_differences(before, yaml.safe_load(dump_config(config)))
    if differences:
        raise LopeError(
            f"{folder} was started with another configuration ({'; '.join(differences[:6])}); "
            "resume with the same one, or set output_dir to another folder."
        )
