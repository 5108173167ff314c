"""`results.json`: what is scored already, and what is added to it."""

from __future__ import annotations

import math
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group

from lope_dist.core.console import tell
from lope_dist.core.locks import file_lock
from lope_dist.core.questions import is_figure, mean
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import RESULTS
from lope_dist.evaluate.loaded.rows import Row
from lope_dist.train.checkpoint.folder import Checkpoint
from lope_dist.train.checkpoint.same_base import base_sha


def read_results(run_dir: Path) -> dict[str, Any]:
    """Return the table, empty if nothing is scored yet; a damaged one is put aside."""
    return RESULTS.recover(run_dir) or {"rows": []}


def identity_of(row: Row, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a row's scores depend on."""
    identity = {
        **row.identity(),
        "checkpoint": checkpoint.folder.name,
        "adapter_sha256": checkpoint.adapter_sha256,
    }
    return identity | ({"base_sha": base_sha(checkpoint)} if row.experts == "none" else {})


def depends_on(row: Row, identity: dict[str, Any]) -> dict[str, Any]:
    """Return what of a row's identity decides its scores; of the base no adapter does."""
    keys = ("experts", "base_sha") if row.experts == "none" else identity
    return {key: identity[key] for key in keys}


def is_scored(
    table: dict[str, Any], row: Row, identity: dict[str, Any], task: str, settings: dict[str, Any]
) -> bool:
    """Tell whether the table holds this score: of this adapter, with these settings."""
    for entry in table["rows"]:
        if entry["name"] == row.name and _is_same(entry, row, identity):
            figures = entry["tasks"].get(task)
            return figures is not None and settings.items() <= figures.items()
    return False


def record(
    run_dir: Path,
    row: Row,
    identity: dict[str, Any],
    figures: dict[str, dict[str, Any]],
    groups: dict[str, list[str]] | None = None,
    model: dict[str, Any] | None = None,
) -> None:
    """Write figures of one row; what it has of other tasks stays, unless of another adapter.

    Means over a group of which a task has other figures now are dropped: whoever scores the group
    writes them anew. Several processes may write figures of one run.

    Args:
        run_dir: The run's folder.
        row: The row.
        identity: What its scores depend on.
        figures: Task or group -> metrics and settings.
        groups: Group or tag -> its members, of those among the figures.
        model: What `facts.model_facts` says of the model that gave them.
    """
    with file_lock(run_dir / f".{RESULTS.name}.lock"):
        table = read_results(run_dir)
        rows = {entry["name"]: entry for entry in table["rows"]}
        entry = rows.setdefault(row.name, {"name": row.name, "tasks": {}})
        if not _is_same(entry, row, identity):
            entry["tasks"] = {}  # such as those before Stage II
        table["groups"] = table.get("groups", {}) | (groups or {})
        scored = entry["tasks"]
        changed = {name for name, new in figures.items() if scored.get(name, new) != new}
        stale = _groups_over(changed, table["groups"])
        entry |= identity
        entry["tasks"] = {name: old for name, old in scored.items() if name not in stale} | figures
        table["rows"] = list(rows.values())
        if model is not None:
            table["model"] = model
        table["versions"] = {name: version(name) for name in ("lm_eval", "torch", "transformers")}
        write_json(run_dir / RESULTS.name, table)


def plain_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Return lm-eval's `metric,filter` keys as plain names, `none` filters left out.

    What is not a finite number, such as a mean over no question, is left out and told.
    """
    plain, undefined = {}, []
    for key, value in metrics.items():
        metric, comma, kind = key.partition(",")
        if comma and isinstance(value, int | float):
            name = _plain_name(metric, kind)
            if math.isfinite(value):
                plain[name] = float(value)
            elif "_stderr" not in metric:
                undefined.append(name)
    if undefined:
        tell(f"Not defined on these questions, and left out: {', '.join(undefined)}.")
    return plain


def question_scores(
    samples: list[dict[str, Any]], figures: dict[str, Any]
) -> dict[str, dict[int, float]]:
    """Return what each question scored: metric -> document -> score.

    Args:
        samples: lm-eval's record of each document and filter.
        figures: The task's metrics, by plain name. One that is no mean over its questions, such as
            a perplexity or an F1 score of the whole, is left out.
    """
    by_metric: dict[str, dict[int, float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            if isinstance(sample[metric], Real):
                name = _plain_name(metric, sample["filter"])
                by_metric.setdefault(name, {})[sample["doc_id"]] = float(sample[metric])
    return {
        name: scores
        for name, scores in by_metric.items()
        if is_figure(mean(scores), figures.get(name))
    }


def group_shares(group: Group, figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what each task counts in a group's metrics: metric -> task -> share."""
    sizes: dict[str, dict[str, float]] = {}
    for metric in group.aggregate_metric_list or ():
        for task in group.get_all_tasks():
            of_task = figures[task.task_name]
            for kind in _filters(task):
                name = _plain_name(metric.metric, kind)
                if name in of_task:
                    size = of_task["num_docs"] if metric.weight_by_size else 1
                    sizes.setdefault(name, {})[task.task_name] = size
    return {
        metric: {task: size / sum(of_tasks.values()) for task, size in of_tasks.items()}
        for metric, of_tasks in sizes.items()
    }


def group_metrics(group: Group, figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the means over a group's tasks, computed by lm-eval from what is written of them."""
    of_lm_eval: dict[str, Any] = {}
    for task in group.get_all_tasks():
        of_task = figures[task.task_name]
        metrics: dict[str, Any] = {"sample_len": of_task["num_docs"]}
        for aggregate in group.aggregate_metric_list or ():
            for metric in (aggregate.metric, f"{aggregate.metric}_stderr"):
                for kind in _filters(task):
                    name = _plain_name(metric, kind)
                    if name in of_task:
                        metrics[f"{metric},{kind}"] = of_task[name]
        of_lm_eval[task.task_name] = metrics
    return plain_metrics(dict(group.aggregate(of_lm_eval)))


def _is_same(entry: dict[str, Any], row: Row, identity: dict[str, Any]) -> bool:
    """Tell whether an entry's scores are this row's; older ones do not say of which base."""
    if row.experts == "none":
        return entry.get("base_sha", identity["base_sha"]) == identity["base_sha"]
    return identity.items() <= entry.items()


def _groups_over(names: set[str], groups: dict[str, list[str]]) -> set[str]:
    """Return the groups that have one of the names among their members, groups of groups too."""
    over: set[str] = set()
    while more := {g for g, members in groups.items() if (names | over) & set(members)} - over:
        over |= more
    return over


def _filters(task: Any) -> list[str]:
    """Return the names of the filters that a task's answers go through."""
    return [ensemble.name for ensemble in getattr(task, "_filters", [])] or ["none"]


def _plain_name(metric: str, kind: str) -> str:
    return metric if kind == "none" else f"{metric}_{kind}"
