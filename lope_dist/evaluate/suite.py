"""Score a run on lm-eval tasks, row by row, into `results.json`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.runlog import read_json, write_json
from lope_dist.engine.world import World
from lope_dist.evaluate.lm import LopeLM
from lope_dist.evaluate.load import load_run, load_run_config
from lope_dist.evaluate.rows import Row, rows_for

RESULTS = "results.json"
_simple_evaluate: Any = simple_evaluate  # its decorator hides its parameters


@dataclass(frozen=True)
class EvalRequest:
    """What to score."""

    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    batch_size: int = 8
    apply_chat_template: bool = False


def evaluate_run(run_dir: Path, request: EvalRequest, world: World | None = None) -> dict[str, Any]:
    """Score each row and return all rows known of this run.

    Each row is written as soon as it is done; a row of the same name is replaced task by
    task, so several calls fill one table. With a ``world`` its ranks share the work, and rank 0
    writes.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: not a run, unknown tasks or experts, or an adapter that changes nothing.
    """
    rows = rows_for(request.experts, load_run_config(run_dir).adapter)
    if request.include_path is not None and not Path(request.include_path).is_dir():
        raise LopeError(f"--include-path: '{request.include_path}' is not a folder.")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(
        include_path=request.include_path, include_defaults=request.include_path is None
    )
    tasks = _match_tasks(request, manager)
    loaded = load_run(run_dir)
    model = LopeLM(loaded, "none", world, batch_size=request.batch_size)
    for row in rows:
        model.choose(row)
        raw = _simple_evaluate(
            model=model,
            tasks=tasks,
            num_fewshot=request.num_fewshot,
            limit=request.limit,
            task_manager=manager,
            apply_chat_template=request.apply_chat_template,
            log_samples=False,
            random_seed=loaded.config.seed,
        )
        if world is None or world.is_main:  # the other ranks of a host get no scores
            assert raw is not None
            _record(run_dir, row, model, request, raw)
        if world is not None:
            world.barrier()
    return read_json(run_dir / RESULTS)


def _match_tasks(request: EvalRequest, manager: TaskManager) -> list[str]:
    """Return the names of all tasks asked for, patterns (`arc_*`) resolved."""
    for task in request.tasks:
        if not manager.match_tasks([task]):
            where = request.include_path or "lm-eval's own tasks"
            raise LopeError(
                f"--tasks: '{task}' is not among {where}.{suggest(task, manager.all_tasks)}"
            )
    return manager.match_tasks(list(request.tasks))


def _record(run_dir: Path, row: Row, model: LopeLM, request: EvalRequest, raw: Any) -> None:
    path = run_dir / RESULTS
    table: dict[str, Any] = read_json(path) if path.exists() else {"rows": []}
    rows = {entry["name"]: entry for entry in table["rows"]}
    entry = rows.setdefault(row.name, {"name": row.name, "tasks": {}})
    identity = {
        "experts": row.experts,
        "compensation": row.compensation.model_dump(mode="json"),
        "scale": row.scale,
        "checkpoint": model.run.checkpoint.folder.name,
        "adapter_sha256": model.run.checkpoint.adapter_sha256,
    }
    if row.experts != "none" and not identity.items() <= entry.items():
        entry["tasks"] = {}  # scores of another adapter, such as the one before Stage II
    entry |= identity
    for task, metrics in {**raw["results"], **raw.get("groups", {})}.items():
        entry["tasks"][task] = _plain_metrics(metrics) | {
            "num_fewshot": raw.get("n-shot", {}).get(task),
            "limit": request.limit,
            "version": raw.get("versions", {}).get(task),
        }
    table["rows"] = list(rows.values())
    members = raw.get("group_subtasks", {})
    table["groups"] = table.get("groups", {}) | {g: members[g] for g in raw.get("groups", {})}
    table["versions"] = {name: version(name) for name in ("lm_eval", "torch", "transformers")}
    write_json(path, table)


def _plain_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Return lm-eval's `metric,filter` keys as plain names, `none` filters left out."""
    plain = {}
    for key, value in metrics.items():
        metric, comma, kind = key.partition(",")
        if comma and isinstance(value, int | float):
            plain[metric if kind == "none" else f"{metric}_{kind}"] = float(value)
    return plain
