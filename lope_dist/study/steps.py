"""What is to be done for a cell, and what of it is done: a command each, and a record of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.load import dump_config
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import SideFile
from lope_dist.evaluate.harness.suite_file import load_suite
from lope_dist.study.cells import Cell, Study
from lope_dist.study.records import RECORDS, record_of, recorded_inputs
from lope_dist.study.schema import SuiteConfig
from lope_dist.study.search import best_row
from lope_dist.train.checkpoint.method import method_differences
from lope_dist.train.checkpoint.recorded import load_recorded


@dataclass(frozen=True)
class Step:
    """One command of `lope` for one cell."""

    name: str
    cell: Cell
    arguments: tuple[str, ...]
    inputs: dict[str, Any]
    """What its result depends on beside the run; another one makes the step undone."""

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
        """Whether the command ended well with these inputs."""
        return recorded_inputs(self.cell, self.name) == self.inputs

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
    made = {str(study.data_file(name)) for name in study.config.files}
    trains_on = cell.config.data.path  # a file of the study's by `train_file`, or by an override
    data = fingerprint([Path(trains_on)]) if trains_on in made else None
    config = cell.folder / RECORDS / "run.yaml"
    steps = [Step("train", cell, ("train", str(config), "--resume", "auto"), {"data": data})]
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
        rows = [row for row in cell.rows if _is_asked(suite, cell, row)]
        arguments = ("eval", str(cell.folder), *_suite_arguments(study, suite))
        if rows:
            inputs = {"rows": rows, "suite": _suite_inputs(study, suite)}
            arguments += ("--experts", ",".join(rows))
            steps.append(Step(f"eval-{name}", cell, arguments, inputs))
    return steps


def _decides(study: Study, name: str) -> bool:
    return study.config.choose_on == study.loss_metric(name)


def _is_asked(suite: SuiteConfig, cell: Cell, row: str) -> bool:
    asked = suite.rows
    return asked is None or row in asked or f"{cell.group.variant}/{row}" in asked


def prepare(step: Step) -> None:
    """Write what the command reads: the cell's configuration."""
    write_atomic(step.cell.folder / RECORDS / "run.yaml", dump_config(step.cell.config))
    if step.name == "train":
        write_json(step.cell.folder / RECORDS / "started.json", step.inputs)


def refuse_changes(steps: list[Step], *, redo: bool) -> None:
    """Hold a run that is there against its cell as it is described now.

    Raises:
        LopeError: it was trained otherwise, and ``redo`` does not say to remove it.
    """
    cell = steps[0].cell
    changes = _changes(steps[0])
    if changes and redo:
        shutil.rmtree(cell.folder)
    elif changes:
        raise LopeError(
            f"The cell {cell.name} was run otherwise ({'; '.join(changes[:6])}); run with "
            "--redo-changed to remove its folder and run it again, or set output_dir to another "
            "folder."
        )


def _changes(train: Step) -> list[str]:
    recorded = train.cell.folder / "run.yaml"
    if not recorded.is_file():
        return []
    try:
        # Through the schema: settings that are newer than the run have their defaults there.
        before = yaml.safe_load(dump_config(load_recorded(recorded)))
    except LopeError as error:
        return [str(error)]
    changes = method_differences(before, yaml.safe_load(dump_config(train.cell.config)))
    started = train.cell.folder / RECORDS / "started.json"
    then = SideFile(started.name, dict[str, Any]).read(started.parent) or train.inputs
    if then != train.inputs:
        changes.append(f"training data: fingerprint {then['data']} -> {train.inputs['data']}")
    return changes


def _suite_inputs(study: Study, suite: SuiteConfig) -> dict[str, Any]:
    """Return what the scores depend on: the settings, and what their files say now."""
    inputs = suite.model_dump(mode="json", exclude={"rows"})
    folder = suite.include_path
    if (name := _suite_name(study, suite)) is not None:
        content = load_suite(name)
        folder = folder or content.include_path
        inputs["content"] = content.model_dump(mode="json", exclude={"include_path"})
    if folder is not None:
        inputs["task_files"] = fingerprint([folder])
    return inputs


def _suite_name(study: Study, suite: SuiteConfig) -> str | None:
    if suite.suite is None:
        return None
    beside = study.path.parent / suite.suite
    return str(beside) if beside.is_file() else suite.suite


def _suite_arguments(study: Study, suite: SuiteConfig) -> tuple[str, ...]:
    name = _suite_name(study, suite)
    arguments = ("--tasks", ",".join(suite.tasks)) if name is None else ("--suite", name)
    options = {
        "--include-path": suite.include_path,
        "--num-fewshot": suite.num_fewshot,
        "--limit": suite.limit,
        "--batch-size": suite.batch_size,
    }
    for option, value in options.items():
        if value is not None:
            arguments += (option, str(value))
    return arguments
