"""A run's folder: refused when taken, checked when resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.train.checkpoint import CONFIG, Checkpoint, last_checkpoint

_DECIDES_THE_RESULT = ("seed", "model", "adapter", "noise", "data", "train")
# Settings in there that may change on resume: logging, and how a batch is made, split
# or recomputed.
_FREE_TO_CHANGE = (
    "data.corpus",
    "data.workers",
    "model.gradient_checkpointing",
    "train.log_every_steps",
    "train.micro_batch",
    "train.tensorboard",
)


def open_run_folder(config: RunConfig, resume: bool) -> Checkpoint | None:
    """Claim the run's folder; return the checkpoint to go on from, if any.

    Raises:
        LopeError: a folder that cannot be written, or holds a run already and no ``resume``;
            or a resume whose configuration would change the result, with each difference.
    """
    folder = Path(config.output_dir)
    recorded = folder / CONFIG
    if not recorded.exists():
        if folder.exists() and any(folder.glob("checkpoints/*")):
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
    return last_checkpoint(folder)


def _read(recorded: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(recorded.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        tree = None
    if not isinstance(tree, dict):
        raise LopeError(f"{recorded} is not the configuration of a run; restore it from a copy.")
    return tree


def _refuse_changes(before: dict[str, Any], config: RunConfig, folder: Path) -> None:
    now = yaml.safe_load(dump_config(config))
    old = {key: before.get(key) for key in _DECIDES_THE_RESULT}
    new = {key: now[key] for key in _DECIDES_THE_RESULT}
    differences = describe_difference(old, new)
    if differences:
        raise LopeError(
            f"{folder} was started with another configuration ({'; '.join(differences[:6])}); "
            "resume with the same one, or set output_dir to another folder."
        )


def describe_difference(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return `key: old -> new` for each value that differs and decides the result."""
    old, new = _flat(before), _flat(now)
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key not in _FREE_TO_CHANGE
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
