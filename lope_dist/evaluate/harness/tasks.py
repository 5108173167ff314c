"""A suite's entries -> lm-eval's own task objects, ready to be scored."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.config.group import AggMetricConfig
from lm_eval.tasks import TaskManager

from lope_dist.config.suite import SuiteConfig, SuiteNoise, SuiteTask
from lope_dist.core.errors import LopeError, suggest
from lope_dist.evaluate.harness.noisy_tasks import corrupt_questions

SEED = 1234
"""lm-eval's own, with which few-shot examples of published figures are drawn."""


@dataclass(frozen=True)
class Unit:
    """One entry of a suite: tasks that are scored together, and so batched together."""

    name: str
    tasks: dict[str, Any]
    """Name -> lm-eval task."""
    limit: float | None
    """Documents of each task, or a share below 1."""
    noise: dict[str, Any] | None = None
    """What corrupted the questions, JSON-able."""


@dataclass(frozen=True)
class LoadedSuite:
    """All tasks of a suite, and the groups over them in the order of the table."""

    units: list[Unit]
    groups: dict[str, Group]

    def tasks(self) -> dict[str, Any]:
        """Return all tasks by name."""
        return {name: task for unit in self.units for name, task in unit.tasks.items()}

    def tags(self) -> dict[str, list[str]]:
        """Return the tasks of what was asked for by a name that is no task's and no group's."""
        tags = {u.name + (u.noise or {"suffix": ""})["suffix"]: list(u.tasks) for u in self.units}
        known = self.tasks() | self.groups
        return {name: tasks for name, tasks in tags.items() if name not in known}


def suite_of_tasks(names: Iterable[str], manager: TaskManager, where: str) -> SuiteConfig:
    """Return the suite of tasks that are asked for by name or pattern (`arc_*`).

    What a group among them has as a member is scored with the group and not by itself.

    Raises:
        LopeError: a name that matches no task.
    """
    matching: dict[str, None] = {}
    for name in names:
        matches = manager.match_tasks([name])
        if not matches:
            raise _unknown("--tasks", name, manager, where)
        matching |= dict.fromkeys(matches)
    members = {member for name in matching for member in _members(name, manager)}
    return SuiteConfig(
        tasks=tuple(SuiteTask(task=name) for name in matching if name not in members)
    )


def _members(name: str, manager: TaskManager) -> set[str]:
    """Return what a group or tag is made of, down to the tasks; nothing for a task."""
    members: set[str] = set()
    open_names = [name]
    while open_names:
        entry: Any = manager.task_index.get(open_names.pop())
        child_names: set[str] = set()
        if entry is not None and entry.kind.name == "TAG":
            child_names = entry.tags
        elif entry is not None and entry.kind.name == "GROUP":
            children = entry.cfg["task"]
            children = [children] if isinstance(children, str) else children
            # A member with settings of its own is a mapping; a list in it is a group of its own.
            child_names = {str(c if isinstance(c, str) else c.get("task")) for c in children}
        open_names += child_names - members
        members |= child_names
    return members - {name}


def load_tasks(suite: SuiteConfig, manager: TaskManager, where: str) -> LoadedSuite:
    """Load the tasks of a suite with their data.

    Raises:
        LopeError: an unknown task, data that cannot be loaded, two entries with one task, or a
            group over tasks or a metric that are not there.
    """
    units: list[Unit] = []
    groups: dict[str, Group] = {}
    owners: dict[str, str] = {}
    entries = [entry for entry in suite.tasks if suite.noise is None or entry.question]
    if not entries:
        raise LopeError(
            "The suite has 'noise' and no task with 'question': nothing would be corrupted; name "
            "the columns to corrupt, e.g. question: [question]."
        )
    for entry in entries:
        if entry.task not in manager.all_tasks:
            raise _unknown("suite", entry.task, manager, where)
        unit, unit_groups = _load(entry, suite, manager)
        for name in unit.tasks:
            if name in owners:
                raise LopeError(
                    f"Task '{name}' is asked for by '{owners[name]}' and by '{entry.task}'; leave "
                    "one of them out."
                )
            owners[name] = entry.task
        units.append(unit)
        groups |= unit_groups
    loaded = LoadedSuite(units, groups)
    _add_groups(loaded, suite)
    return loaded


def _load(
    entry: SuiteTask, suite: SuiteConfig, manager: TaskManager
) -> tuple[Unit, dict[str, Group]]:
    seed_everything()  # some tasks shuffle as they are loaded
    try:
        loaded = manager.load([entry.task])
    except Exception as error:  # whatever a data set's loader and a hub's client raise
        raise LopeError(
            f"Task '{entry.task}' cannot be loaded, {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'} Without "
            "a network, point --include-path at definitions that read local files."
        ) from error
    tasks, groups = loaded["tasks"], loaded.get("groups", {})
    for name, task in tasks.items():
        _refuse_what_cannot_be_asked(name, task)
        _set_fewshot(name, task, entry.num_fewshot)
    noise = None
    if suite.noise is not None:
        noise = suite.noise.model_dump(mode="json") | {"question": list(entry.question)}
        for task in tasks.values():
            corrupt_questions(task, entry.question, suite.noise)
        groups = _renamed(groups, suite.noise)
        tasks = {task.task_name: task for task in tasks.values()}
    limit = entry.limit if entry.limit is not None else suite.limit
    return Unit(entry.task, dict(tasks), limit, noise), dict(groups)


def _refuse_what_cannot_be_asked(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise LopeError(
            f"Task '{name}' runs code that the model writes, which lope eval does not; leave it "
            "out, or score an export with lm-eval's --confirm_run_unsafe_code in a sandbox."
        )
    if getattr(task, "MULTIMODAL", False):
        raise LopeError(f"Task '{name}' shows images or sound, and a run reads text; leave it out.")


def refuse_long_answers(tasks: Mapping[str, Any], max_length: int, default: int) -> None:
    """Refuse tasks whose answers may be as long as all that the model reads.

    Args:
        tasks: Name -> task.
        max_length: Tokens of a prompt and its answer together.
        default: Tokens of an answer where a task does not say.

    Raises:
        LopeError: names the task.
    """
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        longest = (task.config.generation_kwargs or {}).get("max_gen_toks", default)
        if longest >= max_length:
            raise LopeError(
                f"Task '{name}' asks for answers of up to {longest} tokens, and the model reads "
                f"{max_length} with the prompt; leave it out, or define it with a smaller "
                "max_gen_toks."
            )


def seed_everything() -> None:
    """Set the seeds that lm-eval sets before it loads and before it scores."""
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _set_fewshot(name: str, task: Any, num_fewshot: int | None) -> None:
    defined = task.get_config("num_fewshot")
    if defined == 0 and num_fewshot:
        raise LopeError(
            f"Task '{name}' takes no few-shot examples (its definition says num_fewshot: 0) and "
            f"cannot be scored with {num_fewshot}; leave num_fewshot out."
        )
    task.defined_num_fewshot = defined or 0
    task.set_config("num_fewshot", num_fewshot if num_fewshot is not None else defined or 0)


def _renamed(groups: dict[str, Group], noise: SuiteNoise) -> dict[str, Group]:
    """Return the groups under the variant's names; their tasks have theirs already."""
    renamed = {}
    for name, group in groups.items():
        renamed[name] = Group(
            name + noise.suffix,
            aggregate_metric_list=group.aggregate_metric_list,
            metadata=group.metadata,
        )
    for name, group in groups.items():
        for child in group:
            renamed[name].add(renamed[child.name] if isinstance(child, Group) else child)
    return {group.name: group for group in renamed.values()}


def _add_groups(loaded: LoadedSuite, suite: SuiteConfig) -> None:
    """Add the suite's own groups."""
    suffix = suite.noise.suffix if suite.noise is not None else ""
    tasks = loaded.tasks()
    for name, config in suite.groups.items():
        group = Group(
            name + suffix,
            aggregate_metric_list=[
                AggMetricConfig(config.metric, weight_by_size=config.weight_by_size)
            ],
        )
        if group.name in loaded.groups or group.name in tasks:
            raise LopeError(f"groups.{name}: there is a task or group of this name already.")
        for member in config.tasks:
            if member + suffix not in tasks:
                raise LopeError(
                    f"groups.{name}: '{member}' is not among the tasks of the "
                    f"suite.{suggest(member + suffix, tasks)}"
                )
            group.add(tasks[member + suffix])
        _check_metric(name, config.metric, group)
        loaded.groups[group.name] = group


def _check_metric(name: str, metric: str, group: Group) -> None:
    tasks: list[Any] = group.get_all_tasks()
    metrics = sorted({scored for task in tasks for scored in task.aggregation()})
    if metric not in metrics:
        raise LopeError(
            f"groups.{name}.metric: no task of the group has '{metric}'; they have "
            f"{', '.join(metrics)}.{suggest(metric, metrics)}"
        )


def _unknown(key: str, name: str, manager: TaskManager, where: str) -> LopeError:
    return LopeError(f"{key}: '{name}' is not among {where}.{suggest(name, manager.all_tasks)}")


def task_manager(include_path: str | None) -> TaskManager:
    """Index the task definitions of a folder, or lm-eval's own.

    Raises:
        LopeError: not a folder.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise LopeError(f"--include-path: '{include_path}' is not a folder.")
    return TaskManager(include_path=include_path, include_defaults=include_path is None)
