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
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import LoadedRun, load_run, load_run_config
from lope_dist.evaluate.loaded.parallel import agreed, is_main, on_main
from lope_dist.export.card import model_card
from lope_dist.export.folder import new_folder, refuse_existing
from lope_dist.export.formats import (
    ModelWriter,
    Writer,
    prepare_merged,
    prepare_peft,
    prepare_purified,
)
from lope_dist.train.checkpoint.choice import choose_checkpoint
from lope_dist.train.checkpoint.folder import Checkpoint, read_state
from lope_dist.train.checkpoint.integrity import sealed_files

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


def export_run(
    run_dir: Path, request: ExportRequest, *, world: World | None = None, base: str = "auto"
) -> dict[str, Any]:
    """Write one export, whole or not at all; return what `export.json` says of it.

    With `size` and `sha256` of its `files`. Rank 0 writes; the others hold their parts of a base
    that is spread over them.

    Args:
        run_dir: A run's folder.
        request: What to write, and where.
        world: The ranks that do it together; None: this process alone.
        base: Where the base is while they do, as of `load_run`.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: an unknown format, a taken folder, no run or no checkpoint, settings that the
            format does not use, or a run without what the format needs.
    """
    _refuse(request)
    config = load_run_config(run_dir)
    config.lope_adapter("lope export")
    checkpoint = agreed(choose_checkpoint(run_dir, request.checkpoint), world)
    export = _Export(run_dir, request, config, checkpoint)
    if request.kind == "purified":
        return on_main(world, lambda: export.written_by(prepare_purified(config, checkpoint)))
    run = load_run(run_dir, checkpoint=checkpoint, world=world, base=base, progress=is_main(world))
    described: dict[str, Any] = {}
    with run.together() as weights:  # the other ranks gather until this one is done
        if is_main(world):
            write = _prepare(run, request)
            described = export.written_by(lambda folder: write(folder, weights))
    return on_main(world, lambda: described)


def _refuse(request: ExportRequest) -> None:
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


@dataclass(frozen=True)
class _Export:
    run_dir: Path
    request: ExportRequest
    config: RunConfig
    checkpoint: Checkpoint

    def written_by(self, write: Writer) -> dict[str, Any]:
        """Make the folder, with its card; return what it says."""
        request, config = self.request, self.config
        identity = _identity(self.checkpoint)
        with new_folder(request.out) as folder:
            written = write(folder)
            card = model_card(request.kind, config, identity, written, RESULTS.read(self.run_dir))
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


def _prepare(run: LoadedRun, request: ExportRequest) -> ModelWriter:
    """Return what writes the format, once all that may be refused was looked at."""
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
