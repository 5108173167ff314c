"""Two ways to ask a model, compared on the same questions or rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from lope_dist.core.questions import TaskScores, mean, read_scores

BASE = "base"
_Z = 1.959963984540054


class Difference(NamedTuple):
    """A difference to the base model, with the standard error of pairs."""

    value: float
    stderr: float | None
    """None where there are fewer than two pairs of some task."""
    num_pairs: int

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval."""
        if self.stderr is None:
            return None
        return self.value - _Z * self.stderr, self.value + _Z * self.stderr


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
        stderr = None
        if len(pairs) > 1:
            squares = sum((change - value * count) ** 2 for change, count in pairs)
            stderr = math.sqrt(squares * len(pairs) / (len(pairs) - 1)) / tokens
        found[name] = Difference(value, stderr, len(pairs))
    return found


def _of_scores(own: list[TaskScores], base: list[TaskScores]) -> Difference | None:
    if not own or len(own) != len(base):
        return None
    value = variance = 0.0
    num_pairs, is_known = 0, True
    for a, b in zip(own, base, strict=True):
        if a.scores.keys() != b.scores.keys() or a.share != b.share:
            return None
        changes = {i: a.scores[i] - b.scores[i] for i in a.scores}
        centre, count = mean(changes), len(changes)
        value += a.share * centre
        num_pairs += count
        if count < 2:
            is_known = False
            continue
        spread = sum((change - centre) ** 2 for change in changes.values()) / (count - 1)
        variance += a.share**2 * spread / count
    return Difference(value, math.sqrt(variance) if is_known else None, num_pairs)


def _by_row(entry: dict[str, Any]) -> dict[float, tuple[float, float]]:
    return {row[0]: (row[1], row[2]) for row in entry.get("per_row", ())}


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
