"""Two ways to ask a model, compared on the same questions or rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lope_dist.core.intervals import Variance, half_width, ratio_and_moves, variance_of_mean
from lope_dist.core.metrics import how_asked, metrics_of
from lope_dist.core.questions import TaskScores, read_scores
from lope_dist.report.current import BASE
from lope_dist.report.read import line_of


class Difference(NamedTuple):
    """A difference to the base model, with Student's interval over pairs."""

    value: float
    half: float | None
    """Of the 95 % interval; None where there are fewer than two pairs of some task."""
    num_pairs: int

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval."""
        return None if self.half is None else (self.value - self.half, self.value + self.half)


def score_differences(run_dir: Path, results: dict[str, Any]) -> dict[tuple[str, str], Difference]:
    """Return (line, model) -> what a row of `results.json` scores above the base model.

    Lines are named as in `read.score_table`. What was not scored on the same questions, and asked
    alike, is left out.
    """
    entries = {entry["name"]: entry for entry in results["rows"]}
    base = entries.pop(BASE, None)
    if base is None:
        return {}
    differences = {}
    for name, entry in entries.items():
        for task, figures in entry["tasks"].items():
            if not _are_asked_alike(entry, base, task, results.get("groups", {})):
                continue
            of_base = metrics_of(base["tasks"].get(task, {}))
            for metric in metrics_of(figures):
                if metric not in of_base:
                    continue
                pair = [read_scores(run_dir, row, task, metric) for row in (entry, base)]
                difference = _of_scores(*pair)
                if difference is not None:
                    differences[line_of(task, metric), name] = difference
    return differences


def loss_differences(losses: dict[str, Any]) -> dict[str, Difference]:
    """Return model -> by how much its loss per token lies above the base model's, row by row."""
    rows = {name: _by_row(entry) for name, entry in losses["rows"].items()}
    base = rows.pop(BASE, {})
    differences = {}
    for name, losses_of in rows.items():
        pairs = [
            (total - base[row][0], count)
            for row, (total, count) in losses_of.items()
            if row in base and count > 0
        ]
        if pairs:
            changes, counts = np.array(pairs).T
            value, moves = ratio_and_moves(changes, counts)
            half = half_width([variance_of_mean(moves)]) if len(pairs) > 1 else None
            differences[name] = Difference(value, half, len(pairs))
    return differences


def _are_asked_alike(
    one: dict[str, Any], other: dict[str, Any], task: str, groups: dict[str, list[str]]
) -> bool:
    """Tell whether two rows were asked a task, or each one of a group, with equal settings."""
    first, second = (how_asked(row["tasks"].get(task, {})) for row in (one, other))
    return first == second and all(
        _are_asked_alike(one, other, member, groups) for member in groups.get(task, ())
    )


def _of_scores(scored: list[TaskScores], base: list[TaskScores]) -> Difference | None:
    if not scored or len(scored) != len(base):
        return None
    value, num_pairs = 0.0, 0
    variances: list[Variance] = []
    for task, task_of_base in zip(scored, base, strict=True):
        if task.scores.keys() != task_of_base.scores.keys() or task.share != task_of_base.share:
            return None
        changes = np.array([task.scores[i] - task_of_base.scores[i] for i in task.scores])
        value += task.share * float(changes.mean())
        num_pairs += len(changes)
        if len(changes) > 1:
            variances.append(variance_of_mean(task.share * changes))
    is_known = len(variances) == len(scored)
    return Difference(value, half_width(variances) if is_known else None, num_pairs)


def _by_row(entry: dict[str, Any]) -> dict[float, tuple[float, float]]:
    return {row[0]: (row[1], row[2]) for row in entry.get("per_row", ())}
