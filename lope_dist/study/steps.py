"""What is to be done for a cell, and what of it is done: a command each, and a record of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lope_dist.config.load import dump_config
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.runlog import write_json
from lope_dist.study.cells import Cell, Study
from lope_dist.study.changes import STARTED, changes_of, differing, training_inputs, with_date
from lope_dist.study.records import RECORDS, record_of, recorded_inputs
from lope_dist.study.search import best_row
from lope_dist.study.suites import is_asked, is_scored, suite_arguments, suite_inputs


@dataclass(frozen=True)
class Step:
    """One command of `lope` for one cell."""

    name: str
    cell: Cell
    arguments: tuple[str, ...]
    inputs: dict[str, Any]
    """What its result depends on beside the run; another one makes the step undone."""
    holds: Callable[[], bool] = lambda: True
    """Tell whether what the command wrote is still there; a command by hand may replace it."""

    @property
    def log(self) -> Path:
        """Where the command's output goes."""
        return self.cell.folder / RECORDS / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """What is written once the command ended well."""
        return self.cell.folder / RECORDS / f"{self.name}.json"

    @property
    def is_done(self) -> bool:
        """Whether the command ended well with these inputs, and what it wrote is still there."""
        before = recorded_inputs(self.cell, self.name)
        return before is not None and not differing(before, self.inputs) and self.holds()

    def set_done(self, seconds: float) -> None:
        """Record that the command ended well."""
        write_json(self.record, {"inputs": self.inputs, "seconds": round(seconds, 1)})


def recorded_seconds(study: Study, cell: Cell) -> dict[str, float]:
    """Return how long each step of a cell took that ended well."""
    records = {step.name: record_of(cell, step.name) for step in steps_of(study, cell)}
    return {name: r.get("seconds", 0.0) for name, r in records.items() if r is not None}


def steps_of(study: Study, cell: Cell) -> list[Step]:
    """Return all steps of a cell in order: training, losses, suites.

    A loss of `losses_of_chosen` has no row before the step that decides on the chosen one is done.

    Raises:
        LopeError: a file whose loss is asked for is absent.
    """
    config = cell.folder / RECORDS / "run.yaml"
    training = ("train", str(config), "--resume", "auto")
    steps = [Step("train", cell, training, training_inputs(cell.config))]
    settings, variant = study.config.evaluate, study.config.variants[cell.group.variant]
    is_try = bool(cell.group.setting)  # judged on nothing but what decides
    for name in sorted(settings.losses, key=lambda name: not _decides(study, name)):
        path = study.data_file(name)
        if not cell.rows or (is_try and not _decides(study, name)):
            continue
        rows = cell.rows
        if name in settings.losses_of_chosen and variant.choose_from:
            best = best_row(study, cell)
            judged = study.judged_rows(cell.group, study.loss_metric(name))
            rows = tuple(dict.fromkeys((best.row, *judged))) if best is not None else ()
        experts = ("--experts", ",".join(rows))
        arguments = ("loss", str(cell.folder), str(path), *experts)
        arguments += ("--batch-size", str(settings.loss_batch_size))
        data_fingerprint = fingerprint([path])
        if data_fingerprint is None:
            raise LopeError(f"{study.path}: evaluate.losses names '{name}', which does not exist.")
        inputs = {"rows": list(rows), "data": data_fingerprint}
        steps.append(Step(f"loss-{path.stem}", cell, arguments, inputs))
    for name, suite in () if is_try else settings.suites.items():
        rows = [row for row in cell.rows if is_asked(suite, cell, row)]
        arguments = ("eval", str(cell.folder), *suite_arguments(study, suite))
        if rows:
            inputs = {"rows": rows, "suite": suite_inputs(study, suite)}
            arguments += ("--experts", ",".join(rows))
            holds = partial(is_scored, study, suite, cell, rows)
            steps.append(Step(f"eval-{name}", cell, arguments, inputs, holds))
    return steps


def _decides(study: Study, name: str) -> bool:
    return study.config.choose_on == study.loss_metric(name)


def prepare(study: Study, step: Step) -> None:
    """Write what the command reads: the cell's configuration."""
    records = step.cell.folder / RECORDS
    write_atomic(records / "run.yaml", dump_config(with_date(study, step.cell)))
    if step.name == "train":
        write_json(records / STARTED.name, step.inputs)


def refuse_changes(cell: Cell, *, redo: bool) -> None:
    """Hold a run that is there against its cell as it is described now.

    Raises:
        LopeError: it was trained otherwise, and ``redo`` does not say to remove it.
    """
    changes = changes_of(cell)
    if changes and redo:
        shutil.rmtree(cell.folder)
    elif changes:
        raise LopeError(
            f"The cell {cell.name} was run otherwise ({'; '.join(changes[:6])}); run with "
            "--redo-changed to remove its folder and run it again, or set output_dir to another "
            "folder."
        )
