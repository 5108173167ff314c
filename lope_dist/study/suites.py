"""The suites that a study scores its runs with: what `lope eval` is told, and what is asked."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lope_dist.config.suite import SuiteConfig as SuiteFile
from lope_dist.config.suite import SuiteTask
from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import RESULTS
from lope_dist.evaluate.harness.suite_file import fingerprint_of_tasks, load_suite
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.study.cells import Cell, Study
from lope_dist.study.schema import SuiteConfig

Asked = dict[str, list[dict[str, Any]]]
"""Task, group or pattern that suites name -> the settings with which they ask for it."""


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
        inputs["task_files"] = fingerprint_of_tasks(folder)
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


def asked_of(study: Study, suites: Iterable[SuiteConfig]) -> Asked:
    """Return what suites ask for."""
    asked: Asked = {}
    for suite in suites:
        for task, settings in _tasks(study, suite).items():
            asked.setdefault(task, []).append(settings)
    return asked


def is_as_asked(asked: Asked, table: dict[str, Any], row: dict[str, Any], task: str) -> bool:
    """Tell whether a task, and each one of a group, is scored as it is asked for.

    Args:
        asked: What suites ask for.
        table: `results.json`.
        row: One of its rows.
        task: A task or group; one that is not named may be as any that is.
    """
    groups = table.get("groups", {})
    figures, every = row["tasks"].get(task, {}), [s for of in asked.values() for s in of]
    if not any(_fits(figures, s) for s in _settings_for(asked, groups, task) or every):
        return False
    return all(is_as_asked(asked, table, row, of) for of in groups.get(task, ()))


def is_scored(study: Study, suite: SuiteConfig, cell: Cell, rows: Sequence[str]) -> bool:
    """Tell whether a cell's `results.json` has all that a suite asks of these rows."""
    table: dict[str, Any] = RESULTS.read(cell.folder) or {"rows": []}
    entries = {entry["name"]: entry for entry in table["rows"]}
    asked, content = asked_of(study, [suite]), _content(study, suite)
    suffix = content.noise.suffix if content.noise else ""
    names = [*asked, *(name + suffix for name in content.groups)]
    for row in rows_for(rows, cell.config.adapter):
        entry = entries.get(row.name, {"tasks": {}})
        for name in names:
            scored = [name] if name in entry["tasks"] else _matching(table, entry, name)
            if not scored or not all(is_as_asked(asked, table, entry, task) for task in scored):
                return False
    return True


def _matching(table: dict[str, Any], row: dict[str, Any], pattern: str) -> list[str]:
    """Return what a pattern asks for of a row: noisy variants are asked for by name alone."""
    names = fnmatch.filter(row["tasks"], pattern)
    return [name for name in names if not _is_noisy(table, row, name)]


def _is_noisy(table: dict[str, Any], row: dict[str, Any], task: str) -> bool:
    members = table.get("groups", {}).get(task, ())
    is_noisy = bool(row["tasks"].get(task, {}).get("noise"))
    return is_noisy or any(_is_noisy(table, row, member) for member in members)


def _settings_for(asked: Asked, groups: dict[str, list[str]], task: str) -> list[dict[str, Any]]:
    """Return the settings of a task that is named, or else those of the groups that it is in."""
    named = [s for name, of in asked.items() if fnmatch.fnmatchcase(task, name) for s in of]
    parents = [] if named else [group for group, tasks in groups.items() if task in tasks]
    return named + [s for group in parents for s in _settings_for(asked, groups, group)]


def _fits(figures: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Tell whether figures are of these settings; what older ones do not say is taken as right."""
    own, noise = figures.get("defined_num_fewshot", figures.get("num_fewshot")), settings["noise"]
    expected = {
        "num_fewshot": own if settings["num_fewshot"] is None else settings["num_fewshot"],
        "limit": settings["limit"],
        "chat_template": False,
        "noise": noise and noise | {"question": list(settings["question"])},
    }
    return all(figures.get(key, value) == value for key, value in expected.items())


def _tasks(study: Study, suite: SuiteConfig) -> dict[str, dict[str, Any]]:
    """Return task, or group of tasks -> what its figures depend on, as far as it is named here."""
    content = _content(study, suite)
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


def _content(study: Study, suite: SuiteConfig) -> SuiteFile:
    if (name := _suite_name(study, suite)) is not None:
        return load_suite(name)
    return SuiteFile(tasks=tuple(SuiteTask(task=task) for task in suite.tasks))


def _suite_name(study: Study, suite: SuiteConfig) -> str | None:
    if suite.suite is None:
        return None
    beside = study.path.parent / suite.suite
    return str(beside) if beside.is_file() else suite.suite
