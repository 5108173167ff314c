"""Two ways to ask a model, compared on the same questions or rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from lope_dist.core.intervals import Variance, half_width
from lope_dist.core.questions import TaskScores, mean, read_scores

BASE = "base"


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

    Lines are named as in `read.score_table`. What was not scored on the same questions is left out.
    """
    entries = {entry["name"]: entry for entry in results["rows"]}
    base = entries.pop(BASE, None)
    if base is None:
        return {}
    found = {}
    for name, entry in entries.items():
        for task, figures in entry["tasks"].items():
            for metric in figures:
                if metric not in base["tasks"].get(task, {}):
                    continue
                if not _is_score(figures[metric]) or not _is_score(base["tasks"][task][metric]):
                    continue
                pair = [read_scores(run_dir, one, task, metric) for one in (entry, base)]
                difference = _of_scores(*pair)
                if difference is not None:
                    line = task if metric == "acc" else f"{task} ({metric})"
                    found[line, name] = difference
    return found


def loss_differences(losses: dict[str, Any]) -> dict[str, Difference]:
    """Return model -> by how much its loss per token lies above the base model's, row by row."""
    rows = {name: _by_row(entry) for name, entry in losses["rows"].items()}
    base = rows.pop(BASE, {})
    found = {}
    for name, own in rows.items():
        pairs = [(own[i][0] - base[i][0], own[i][1]) for i in own if i in base and own[i][1] > 0]
        tokens = sum(count for _, count in pairs)
        if not tokens:
            continue
        value = sum(change for change, _ in pairs) / tokens
        half, degrees = None, len(pairs) - 1
        if degrees > 0:
            squares = sum((change - value * count) ** 2 for change, count in pairs)
            half = half_width([Variance(squares * len(pairs) / degrees / tokens**2, degrees)])
        found[name] = Difference(value, half, len(pairs))
    return found


def _of_scores(own: list[TaskScores], base: list[TaskScores]) -> Difference | None:
    if not own or len(own) != len(base):
        return None
    value, num_pairs = 0.0, 0
    variances: list[Variance] = []
    for a, b in zip(own, base, strict=True):
        if a.scores.keys() != b.scores.keys() or a.share != b.share:
            return None
        changes = {i: a.scores[i] - b.scores[i] for i in a.scores}
        centre, count = mean(changes), len(changes)
        value += a.share * centre
        num_pairs += count
        if count > 1:
            spread = sum((change - centre) ** 2 for change in changes.values()) / (count - 1)
            variances.append(Variance(a.share**2 * spread / count, count - 1))
    is_known = len(variances) == len(own)
    return Difference(value, half_width(variances) if is_known else None, num_pairs)


def _by_row(entry: dict[str, Any]) -> dict[float, tuple[float, float]]:
    return {row[0]: (row[1], row[2]) for row in entry.get("per_row", ())}


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
