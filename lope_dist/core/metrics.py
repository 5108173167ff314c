"""Which figures of a task in `results.json` are metrics, and which of them are shares."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeGuard

_SETTINGS = frozenset({"num_docs", "num_fewshot", "defined_num_fewshot", "limit", "version"})
"""What else stands beside a task's metrics as a number."""
_ASKED = (
    "num_fewshot",
    "limit",
    "version",
    "task_files",
    "chat_template",
    "template_arguments",
    "template_date",
    "noise",
)
"""What else stands beside them that decides what was asked."""
_SHARE = re.compile(r"(^|_)(acc|exact_match|em|f1|pass|pass_at)(_|@|$)")


class Metric(NamedTuple):
    """One figure of a task or of a group of tasks."""

    value: float
    stderr: float | None
    """None where lm-eval has none, as of a perplexity over words or of a single document."""


def metrics_of(figures: dict[str, Any]) -> dict[str, Metric]:
    """Return the metrics of one task with their standard errors.

    Behind both names stands a filter's: `exact_match_strict` and `exact_match_stderr_strict`.
    """
    errors = {name.replace("_stderr", ""): name for name in figures if "_stderr" in name}
    metrics = {}
    for name, value in figures.items():
        if is_finite(value) and "_stderr" not in name and name not in _SETTINGS:
            stderr = figures.get(errors.get(name, ""))
            metrics[name] = Metric(float(value), float(stderr) if is_finite(stderr) else None)
    return metrics


def how_asked(figures: dict[str, Any]) -> dict[str, Any]:
    """Return with which settings a task was asked, those of a plain task left out."""
    return {key: figures[key] for key in _ASKED if figures.get(key)}


def is_share(metric: str, values: Iterable[float]) -> bool:
    """Tell by name and values whether a metric is a share of right answers, shown in percent."""
    return _SHARE.search(metric) is not None and all(0 <= value <= 1 for value in values)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
