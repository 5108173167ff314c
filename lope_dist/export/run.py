"""`lope export`: from a run's last checkpoint to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import RESULTS
from lope_dist.evaluate.load import load_run, load_run_config
from lope_dist.export.card import model_card
from lope_dist.export.folder import new_folder, refuse_existing
from lope_dist.export.formats import Writer, prepare_merged, prepare_peft, prepare_purified
from lope_dist.train.checkpoint import Checkpoint, read_state
from lope_dist.train.choice import choose_checkpoint
from lope_dist.train.integrity import sealed_files

Format = Literal["purified", "peft", "merged"]
DESCRIPTION = "export.json"
_VERSIONS = ("lope_dist", "torch", "transformers", "peft")


@dataclass(frozen=True)
class ExportRequest:
    """What to write, and where."""

    kind: str
    """`purified`, `peft` or `merged`."""
    out: Path
    """A folder that does not exist yet."""
    calibration: str | None = None
    """Examples for the mean router weights; None for the run's training data."""
    calibration_rows: int = 64
    """Examples to average over, and others to compare on."""
    checkpoint: str = "last"
    """Which of the run's: `last`, `best`, a number of steps or a folder's name."""


def export_run(run_dir: Path, request: ExportRequest) -> dict[str, Any]:
    """Write one export, whole or not at all; return what `export.json` says of it.

    With `size` and `sha256` of its `files`.

    Raises:
        LopeError: an unknown format, a taken folder, no run or no checkpoint, settings that the
            format does not use, or a run without what the format needs.
    """
    if request.kind not in get_args(Format):
        raise LopeError(
            f"--format: '{request.kind}' is not known; allowed: {', '.join(get_args(Format))}."
            f"{suggest(request.kind, get_args(Format))}"
        )
    if request.calibration_rows < 1:
        raise LopeError(f"--calibration-rows {request.calibration_rows}: at least 1.")
    if request.kind == "purified" and request.calibration is not None:
        raise LopeError("--calibration has no effect on a purified export, which is exact.")
    refuse_existing(request.out)
    config = load_run_config(run_dir)
    config.lope_adapter("lope export")
    checkpoint = choose_checkpoint(run_dir, request.checkpoint)
    identity = _identity(checkpoint)
    write = _prepare(run_dir, config, checkpoint, request)
    with new_folder(request.out) as folder:
        written = write(folder)
        card = model_card(request.kind, config, identity, written, RESULTS.read(run_dir))
        write_atomic(folder / "README.md", card)
        description = {
            "format": request.kind,
            "base_model": config.model.name_or_path,
            **identity,
            "is_exact": written.is_exact,
            "comparison": written.comparison,
            "versions": {name: version(name) for name in _VERSIONS},
        }
        write_json(folder / DESCRIPTION, description)
    return description | {"files": sealed_files(request.out)}


def _prepare(
    run_dir: Path, config: RunConfig, checkpoint: Checkpoint, request: ExportRequest
) -> Writer:
    """Return what writes the format, once all that may be refused was looked at."""
    if request.kind == "purified":
        return prepare_purified(config, checkpoint)
    run = load_run(run_dir, checkpoint=checkpoint)
    examples = request.calibration, request.calibration_rows
    if request.kind == "peft":
        return prepare_peft(run, request.out, *examples)
    return prepare_merged(run, *examples)


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.folder.name,
        "adapter_sha256": checkpoint.adapter_sha256,
        "data_fingerprint": read_state(checkpoint)["data_fingerprint"],
    }
