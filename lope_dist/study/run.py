"""Execute what is missing of a study, several cells at a time, until all is done or time is up."""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import FrameType

from lope_dist.core.console import tell
from lope_dist.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, LopeError, suggest
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.model.slow_dtype import tell_slow_dtype
from lope_dist.study.cells import Cell, Study
from lope_dist.study.changes import diverged
from lope_dist.study.children import Child
from lope_dist.study.files import make_files
from lope_dist.study.progress import Progress
from lope_dist.study.search import all_diverged, with_settings
from lope_dist.study.steps import Step, prepare, refuse_changes, steps_of
from lope_dist.train.run.lock import run_lock

_POLL_S = 0.2
_REPLACED = (
    "another suite has scored the same tasks with other settings, and a run holds one figure of a "
    "task; give both suites the same settings, or leave the tasks out of one."
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class RunRequest:
    """How to execute a study."""

    jobs: int = 1
    """Cells at a time."""
    stop_after_s: float | None = None
    """When to stop in whole pieces."""
    only: str | None = None
    """Pattern of the cells' names (`lope*/seed-614`), or a group's name. The tries that choose a
    cell's settings are run with it."""
    redo_changed: bool = False
    """Remove and run again what was run otherwise."""
    grace_s: float = 120.0
    """How long a command may take to stop, such as to write a checkpoint, before it is killed."""


@dataclass
class Outcome:
    """What became of the cells."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Cell -> step, status and the log's last lines."""


@dataclass
class _Job:
    cell: Cell
    steps: deque[Step]
    child: Child
    seconds: dict[str, float] = field(default_factory=dict)


def run_study(study: Study, request: RunRequest) -> Outcome:
    """Make the data, then train and score what is missing.

    Raises:
        LopeError: nothing is started: a cell that is not valid, was run otherwise or is named by
            no pattern, data that are absent, or another process at work in the folder.
    """
    asked = _asked(study, request.only)
    for cell in (*study.tries, *study.cells):
        rows_for(cell.rows, cell.config.adapter)  # a row that is unknown shows before any training
    for dtype in sorted({cell.config.model.dtype for cell in (*study.tries, *study.cells)}):
        tell_slow_dtype(dtype)  # the runs say it too, in their logs
    outcome = Outcome()
    stop_at = None if request.stop_after_s is None else time.monotonic() + request.stop_after_s
    with run_lock(study.folder):
        make_files(study, again=request.redo_changed)
        _execute(study, _of(asked, study.tries), request, stop_at, outcome)
        if not outcome.left:
            study = with_settings(study)
            for group, why in all_diverged(study).items():
                tell(f"{group}: {why}.")
                outcome.failed |= {name: why for name in study.names_of([group]) if name in asked}
            _execute(study, _of(asked, study.cells), request, stop_at, outcome)
    if outcome.left:  # else a search is open only where a try failed
        names = study.names_of(study.searched)
        outcome.left += [name for name in names if name in asked - outcome.failed.keys()]
    return outcome


def _asked(study: Study, only: str | None) -> set[str]:
    """Return the names of the cells that a pattern asks for, and of the tries they wait for.

    Raises:
        LopeError: a pattern of no cell.
    """
    asked = {
        name
        for name in study.names
        if only is None or fnmatch.fnmatchcase(name, only) or name.rpartition("/")[0] == only
    }
    if not asked:
        raise LopeError(
            f"--only: '{only}' is the name or pattern of no cell; there are "
            f"{', '.join(study.names)}.{suggest(only or '', study.names)}"
        )
    deciding = {
        study.searched_as(group).name
        for group in study.groups.values()
        if not asked.isdisjoint(study.names_of([group.name]))
    }
    return asked | {
        cell.name for cell in study.tries if replace(cell.group, setting=()).name in deciding
    }


def _of(asked: set[str], cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.name in asked]


def _diverged_as_try(cell: Cell) -> bool:
    """Tell whether this is a try of a search that diverged, which is what it was to find out."""
    return bool(cell.group.setting) and diverged(cell)


def _execute(
    study: Study,
    cells: Sequence[Cell],
    request: RunRequest,
    stop_at: float | None,
    outcome: Outcome,
) -> None:
    """Run the missing steps of cells."""
    todo: deque[tuple[Cell, deque[Step]]] = deque()
    for cell in cells:
        refuse_changes(cell, redo=request.redo_changed)
        missing = deque(step for step in steps_of(study, cell) if not step.is_done)
        if missing and not _diverged_as_try(cell):
            todo.append((cell, missing))
        else:
            outcome.done.append(cell.name)
    if todo:
        with _Runner(study, todo, outcome, request, stop_at) as runner:
            runner.run()


def parse_duration(text: str) -> float:
    """Return the seconds that `90s`, `10m` or `1.5h` names.

    Raises:
        LopeError: something else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise LopeError(
            f"--stop-after: '{text}' is no duration; write a number above 0 and a unit, for "
            "example 90s, 10m or 2h."
        )
    return float(match[1]) * _SECONDS[match[2]]


class _Runner:
    """The loop over child processes; a signal or the end of the time makes it stop them."""

    def __init__(
        self,
        study: Study,
        todo: deque[tuple[Cell, deque[Step]]],
        outcome: Outcome,
        request: RunRequest,
        stop_at: float | None,
    ) -> None:
        self._study = study
        self._todo, self._outcome, self._jobs = todo, outcome, request.jobs
        self._running: list[_Job] = []
        self._deadline = stop_at
        self._is_stopping, self._grace_s = False, request.grace_s
        self._num_threads = max(1, (os.cpu_count() or 1) // request.jobs)
        self._progress = Progress(sum(len(steps) for _, steps in todo))

    def __enter__(self) -> _Runner:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._running:  # after an error of this process itself
            job.child.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._progress.close()

    def run(self) -> None:
        """Return when nothing is left, or all that ran has stopped."""
        while self._running or (self._todo and not self._is_stopping):
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._is_stopping = True
            if self._is_stopping:
                for job in self._running:
                    job.child.stop()
            elif self._todo and len(self._running) < self._jobs:
                cell, steps = self._todo.popleft()
                self._running.append(_Job(cell, steps, self._start(steps[0])))
                continue
            time.sleep(_POLL_S)
            self._running = [job for job in self._running if self._goes_on(job)]
            self._progress.show(
                [(job.cell.name, job.steps[0].name) for job in self._running],
                self._running[0].child.progress() if len(self._running) == 1 else "",
            )
        self._outcome.left += [cell.name for cell, _ in self._todo]

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True

    def _missing(self, job: _Job) -> deque[Step]:
        """Return what is left of a cell; its earlier steps may have decided what that is."""
        steps = steps_of(self._study, job.cell)
        return deque(step for step in steps if not (step.is_done or step.name in job.seconds))

    def _lost(self, job: _Job) -> str:
        """Return the names of a cell's steps whose figures a later one has replaced."""
        steps = (s for s in steps_of(self._study, job.cell) if s.name in job.seconds)
        return ", ".join(step.name for step in steps if not step.holds())

    def _start(self, step: Step) -> Child:
        prepare(self._study, step)
        return Child(step.arguments, step.log, self._num_threads, self._grace_s)

    def _goes_on(self, job: _Job) -> bool:
        """Look after one job; start its next step when one has ended well."""
        status = job.child.poll()
        if status is None:
            return True
        step, name = job.steps[0], job.cell.name
        if status == 0:
            step.set_done(job.child.seconds)
            job.seconds[step.name] = job.child.seconds
            job.steps = self._missing(job)
            self._progress.advance()
            if not job.steps and (lost := self._lost(job)):
                self._outcome.failed[name] = f"{lost}: {_REPLACED}"
                tell(f"{name}: {lost}: {_REPLACED}")
            elif not job.steps:
                self._outcome.done.append(name)
                self._progress.tell_done(name, job.seconds)
            elif self._is_stopping:
                self._outcome.left.append(name)
            else:
                job.child = self._start(job.steps[0])
                return True
        elif status in (EXIT_PREEMPTED, EXIT_INTERRUPTED) or (
            self._is_stopping and status in (-signal.SIGTERM, -signal.SIGKILL)
        ):
            self._outcome.left.append(name)
        elif _diverged_as_try(job.cell):
            self._outcome.done.append(name)
            self._progress.tell_diverged(name)
        else:
            lines = job.child.last_lines()
            self._outcome.failed[name] = f"{step.name}: status {status}: {lines[-1]}"
            self._progress.tell_failed(name, step, status, lines)
        return False
