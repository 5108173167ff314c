"""The suites that a study scores its runs with: what `lope eval` is told, and what is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lope_dist.config.suite import SuiteConfig as SuiteFile
from lope_dist.config.suite import SuiteTask
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import fingerprint
from lope_dist.evaluate.harness.suite_file import load_suite
from lope_dist.study.cells import Cell, Study
from lope_dist.study.schema import SuiteConfig

Limits = dict[str, set[float | None]]
"""Task that a suite names -> the limits with which it is asked for; `""`: those of all tasks, for
tasks that are members of a group."""


def is_asked(suite: SuiteConfig, cell: Cell, row: str) -> bool:
    """Tell whether a suite scores a row of a cell."""
    asked = suite.rows
    return asked is None or row in asked or f"{cell.group.variant}/{row}" in asked


def suite_inputs(study: Study, suite: SuiteConfig) -> dict[str, Any]:
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


def suite_arguments(study: Study, suite: SuiteConfig) -> tuple[str, ...]:
    """Return what `lope eval` is told."""
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


def misfits_of_suites(study: Study) -> Iterator[str]:
    """Tell of suites that would write over each other's figures: a run holds one of each task."""
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, suite in study.config.evaluate.suites.items():
        try:
            tasks = _tasks(study, suite)
        except LopeError as error:
            yield f"evaluate.suites.{name}: {error}"
            continue
        for task, settings in tasks.items():
            other, before = seen.setdefault(task, (name, settings))
            if before != settings:
                differing = [
                    f"{key}: {value!r} and {settings[key]!r}"
                    for key, value in before.items()
                    if value != settings[key]
                ]
                yield (
                    f"evaluate.suites: '{other}' and '{name}' score the task '{task}' with other "
                    f"settings ({', '.join(differing)}), and a run holds one figure of a task; "
                    "give both the same settings, or leave the task out of one."
                )


def limits_of(study: Study) -> Limits:
    """Return the limits that the suites of a study ask for."""
    limits: Limits = {"": set()}
    for suite in study.config.evaluate.suites.values():
        for task, settings in _tasks(study, suite).items():
            limits.setdefault(task, set()).add(settings["limit"])
            limits[""].add(settings["limit"])
    return limits


def _tasks(study: Study, suite: SuiteConfig) -> dict[str, dict[str, Any]]:
    """Return task, or group of tasks -> what its figures depend on, as far as it is named here."""
    name = _suite_name(study, suite)
    named = SuiteFile(tasks=tuple(SuiteTask(task=t) for t in suite.tasks)) if name is None else None
    content = named or load_suite(str(name))
    noise, folder = content.noise, suite.include_path or content.include_path
    alike = {
        "include_path": None if folder is None else str(Path(folder).resolve()),
        "noise": None if noise is None else noise.model_dump(mode="json"),
    }
    limits = {e.task: content.limit if e.limit is None else e.limit for e in content.tasks}
    return {
        entry.task + (noise.suffix if noise else ""): {
            "num_fewshot": entry.num_fewshot if suite.num_fewshot is None else suite.num_fewshot,
            "limit": limits[entry.task] if suite.limit is None else suite.limit,
            "question": entry.question if noise else None,
            **alike,
        }
        for entry in content.tasks
        if noise is None or entry.question
    }


def _suite_name(study: Study, suite: SuiteConfig) -> str | None:
    if suite.suite is None:
        return None
    beside = study.path.parent / suite.suite
    return str(beside) if beside.is_file() else suite.suite
