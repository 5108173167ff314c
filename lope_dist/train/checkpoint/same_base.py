"""Whether the base model that is there now is the one that a checkpoint was trained on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import MANIFEST
from lope_dist.model.source import is_package
from lope_dist.train.checkpoint.descriptions import STATE, read_description
from lope_dist.train.checkpoint.folder import Checkpoint, read_state

OF_BASE: tuple[str, ...] = ("base weights", "architecture", "tokenizer")
_LIBRARIES = ("transformers", "tokenizers")


def base_fingerprints(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the fingerprints of what a checkpoint, or a purified export, was trained on.

    Those of `model.fingerprint`; an older export has none.
    """
    if (checkpoint.folder / STATE).exists():
        return read_state(checkpoint)["fingerprints"]
    return read_description(checkpoint.folder).get("fingerprints", {})


def base_sha(checkpoint: Checkpoint) -> str | None:
    """Return the hash of the base weights that it was trained on; None if an export has none."""
    return base_fingerprints(checkpoint).get("base weights")


def differences(
    then: Mapping[str, str], now: Mapping[str, str], where: Mapping[str, str]
) -> list[str]:
    """Return, in words, each fingerprint that is not what it was.

    Args:
        then: What was trained on, by name.
        now: What is there.
        where: Which of them to compare -> who holds it, as "'NAME' holds".
    """
    return [
        f"other {what} than {where[what]} now (fingerprint {then.get(what)}, now {now[what]})"
        for what in where
        if then.get(what) != now[what]
    ]


def refuse_other_base(
    run_dir: Path, checkpoint: Checkpoint, config: ModelConfig, now: Mapping[str, str]
) -> None:
    """Refuse a base model that the checkpoint was not trained on.

    What transformers makes of a tokenizer, or of a package's weights, may differ from version to
    version. So where the run never began with those of today, that is told and not refused.

    Args:
        run_dir: The checkpoint's run.
        checkpoint: Of whose adapter.
        config: The run's.
        now: What `model.fingerprint.fingerprints` says of the base that is there.

    Raises:
        LopeError: base weights, architecture or tokenizer are other ones.
    """
    then = base_fingerprints(checkpoint)
    refused = {what: f"'{config.name_or_path}' holds" for what in OF_BASE if what in then}
    told = {}
    if not _began_with_these_libraries(run_dir):
        made_by_them = OF_BASE if is_package(config.name_or_path) else ("tokenizer",)
        told = {what: refused.pop(what) for what in made_by_them if what in refused}
    if different := differences(then, now, refused):
        raise LopeError(
            f"The adapter in {checkpoint.folder} was trained on {' and '.join(different)}; restore "
            "what it was."
        )
    if different := differences(then, now, told):
        print(
            f"The adapter in {checkpoint.folder} was trained on {' and '.join(different)}: another "
            "version of transformers may be the cause, or other files.",
            file=sys.stderr,
        )


def _began_with_these_libraries(run_dir: Path) -> bool:
    """Return whether a start of the run, which compared the base, had the libraries of today."""
    today = {name: version(name) for name in _LIBRARIES}
    starts = (MANIFEST.read(run_dir) or {"starts": []})["starts"]
    return any(today.items() <= start.get("packages", {}).items() for start in starts)
