"""What a tracker is, and how several are kept without ever ending a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lope_dist.core.console import library_output_to_log, tell
from lope_dist.core.errors import LopeError
from lope_dist.core.registry import Registry
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import TRACKERS as IDS


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run as it starts or goes on.

    Attributes:
        folder: The run's folder.
        project: Project or experiment.
        name: The run's name.
        tags: Its tags.
        config: Its configuration, a tree of plain values.
        known_id: The tracker's own id of the run, if it started it before.
        steps_done: Optimizer steps of all stages that are done; later ones are logged again.
    """

    folder: Path
    project: str
    name: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    known_id: str | None
    steps_done: int


class Tracker(Protocol):
    """One run at one tracker. It may raise whatever it likes: `Trackers` catches it."""

    run_id: str
    """By which it finds the run again."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step; ``step`` counts all stages' steps from 1."""
        ...

    def finish(self, is_finished: bool) -> None:
        """End: the run is finished, or was stopped."""
        ...


@dataclass(frozen=True)
class TrackerKind:
    """A tracker that can be asked for.

    Attributes:
        package: What must be installed.
        extra: The extra that installs it.
        start: Starts a run, or goes on with the one that it knows.
    """

    package: str
    extra: str
    start: Callable[[TrackedRun], Tracker]


TRACKERS: Registry[TrackerKind] = Registry("tracker", "lope_dist.train.trackers")


def check_installed(names: Sequence[str]) -> None:
    """Check that the trackers' packages are there.

    Raises:
        LopeError: one is missing; the message has the command that installs it.
    """
    for name in names:
        kind = TRACKERS[name]
        if find_spec(kind.package) is None:
            raise LopeError(
                f"train.trackers: '{name}' needs the package {kind.package}; "
                f"run: pip install 'lope-dist[{kind.extra}]'."
            )


class Trackers:
    """The trackers of one run. One that fails is named once and left out."""

    def __init__(self, started: Mapping[str, Tracker]) -> None:
        self._open = dict(started)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log a step's values; a nested tree's keys are joined by slashes."""
        flat = dict(_flat(values))
        for name, tracker in list(self._open.items()):
            try:
                with library_output_to_log():
                    tracker.log(step, flat)
            except Exception as error:
                _tell(name, f"failed at step {step} and gets no more", error)
                del self._open[name]

    def finish(self, is_finished: bool) -> None:
        """End all of them."""
        for name, tracker in self._open.items():
            try:
                with library_output_to_log():
                    tracker.finish(is_finished)
            except Exception as error:
                _tell(name, "could not end", error)
        self._open = {}


def start_trackers(names: Sequence[str], run: TrackedRun) -> Trackers:
    """Start trackers, or go on with the runs that they know; ``run.known_id`` is filled in here."""
    ids = (IDS.recover(run.folder) if names else None) or {}
    started: dict[str, Tracker] = {}
    for name in names:
        try:
            with library_output_to_log():
                started[name] = TRACKERS[name].start(replace(run, known_id=ids.get(name)))
        except Exception as error:  # whatever it is: the run goes on
            _tell(name, "could not start", error)
    if started:
        ids |= {name: tracker.run_id for name, tracker in started.items()}
        write_json(run.folder / IDS.name, ids)
    return Trackers(started)


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of settings with dotted keys."""
    return {key.replace("/", "."): value for key, value in _flat(config)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        elif value is not None:
            yield f"{prefix}{key}", value


def _tell(name: str, what: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    tell(f"Tracker {name} {what} ({reason}); the run goes on without it.")
