"""What each question scored, in a file a row and task beside `results.json`.

With it two rows can be compared question by question. The file of a group of tasks has the share of
each task instead. Files are written before `results.json`, and one that does not fit to what stands
there counts as absent: it is from before another adapter, other settings or a kill in between.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired
from urllib.parse import quote

from pydantic import Field
from typing_extensions import TypedDict

from lope_dist.core.files import write_atomic
from lope_dist.core.row_names import names_in_files
from lope_dist.core.side_files import Number, SideFile

QUESTIONS = "questions"
"""Folder of a run."""


class _Kept(TypedDict):
    depends_on: NotRequired[dict[str, Any]]
    scores: NotRequired[dict[str, dict[Annotated[str, Field(pattern=r"^\d{1,18}$")], Number]]]
    shares: NotRequired[dict[str, dict[str, Number]]]


@dataclass(frozen=True)
class TaskScores:
    """The questions of one task, and what they count in a figure."""

    share: float
    """Weight of the task's mean; all of a figure's add up to 1."""
    scores: dict[int, float]
    """Number of the document -> score."""


def mean(scores: dict[int, float]) -> float:
    """Return the mean over questions."""
    return sum(scores.values()) / len(scores)


def is_figure(value: float, figure: Any) -> bool:
    """Tell whether a mean over questions is the figure that is reported."""
    return isinstance(figure, int | float) and math.isclose(value, figure, abs_tol=1e-9)


def write_scores(
    run_dir: Path,
    row: str,
    task: str,
    depends_on: dict[str, Any],
    scores: dict[str, dict[int, float]],
) -> None:
    """Write the questions' scores of one row and task in place of older ones.

    Args:
        run_dir: The run's folder.
        row: Name of the row.
        task: Name of the task.
        depends_on: What the scores depend on; `results.json` has the same beside its figures.
        scores: Metric -> document -> score.
    """
    _write(run_dir, row, task, {"depends_on": depends_on, "scores": scores})


def write_shares(run_dir: Path, row: str, group: str, shares: dict[str, dict[str, float]]) -> None:
    """Write what each task counts in a group's metrics: metric -> task -> share."""
    _write(run_dir, row, group, {"shares": shares})


def read_scores(run_dir: Path, entry: dict[str, Any], task: str, metric: str) -> list[TaskScores]:
    """Return the questions behind a figure, task by task; none where they are not known.

    Args:
        run_dir: The run's folder.
        entry: A row of its `results.json`.
        task: A task or group of the row.
        metric: One of its metrics.
    """
    shares = _read(run_dir, entry, task).get("shares", {}).get(metric, {task: 1.0})
    task_scores = []
    for name, share in shares.items():
        kept = _read(run_dir, entry, name)
        scores = kept.get("scores", {}).get(metric)
        settings = entry | entry["tasks"].get(name, {})
        if not scores or not kept.get("depends_on", {}).items() <= settings.items():
            return []
        task_scores.append(TaskScores(share, {int(i): score for i, score in scores.items()}))
    whole = sum(task_score.share * mean(task_score.scores) for task_score in task_scores)
    return task_scores if is_figure(whole, entry["tasks"][task][metric]) else []


def _write(run_dir: Path, row: str, task: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    write_atomic(_path(run_dir, row, task), text + "\n")


def _read(run_dir: Path, entry: dict[str, Any], task: str) -> dict[str, Any]:
    for name in names_in_files(entry["name"]):
        path = _path(run_dir, name, task)
        if path.exists():
            return SideFile(path.name, _Kept).read(path.parent) or {}
    return {}


def _path(run_dir: Path, row: str, task: str) -> Path:
    return run_dir / QUESTIONS / quote(row, safe="") / f"{quote(task, safe='')}.json"
