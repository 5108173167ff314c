"""A run folder's files as plain data; what is absent or damaged is ``None``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.sections import has_sections
from lope_dist.core.errors import LopeError
from lope_dist.core.metrics import is_share, metrics_of
from lope_dist.core.side_files import (
    COST,
    MANIFEST,
    METRICS,
    RESULTS,
    ROUTER,
    SAMPLES,
    STATE,
    VALIDATION,
    NoiseScores,
    SideFile,
    has_shape,
    loss_file,
)
from lope_dist.report.current import of_now


@dataclass(frozen=True)
class RunFiles:
    """What a run has written so far."""

    path: Path
    metrics: list[dict[str, Any]]
    """Lines of `metrics.jsonl`, at least one."""
    validation: list[dict[str, Any]]
    """Its lines with the loss on the validation rows."""
    results: dict[str, Any] | None
    """`results.json`, without rows of another adapter, as `losses`; see `current.of_now`."""
    router: dict[str, Any] | None
    """`router.json`."""
    config: str | None
    """`run.yaml`, as text."""
    settings: dict[str, Any]
    """The same, parsed; empty without it."""
    state: dict[str, Any] | None
    """`state.json`."""
    cost: dict[str, Any] | None
    """`cost.json`."""
    manifest: dict[str, Any] | None
    """`manifest.json`."""
    losses: dict[str, dict[str, Any]]
    """File name -> what `lope loss` wrote."""
    samples: dict[str, Any] | None
    """`samples.json`."""
    noise_scores: dict[str, dict[str, Any]]
    """File name -> a summary that `lope score` wrote into the run's folder."""

    def stages(self) -> dict[str, list[dict[str, Any]]]:
        """Return the metrics of each stage, in the order in which the stages ran."""
        return _by_stage(self.metrics)

    def validated_stages(self) -> dict[str, list[dict[str, Any]]]:
        """Return the losses on the validation rows of each stage."""
        return _by_stage(self.validation)

    def router_usage(self) -> dict[str, dict[str, list[float]]]:
        """Return the mean weights by stage and layer, of the stages that have some."""
        router = self.router or {}
        return {
            stage: usage
            for stage, usage in router.items()
            if stage not in ("experts", "poison_weight") and usage
        }


@dataclass(frozen=True)
class Score:
    """One figure of the evaluation."""

    value: float
    stderr: float | None
    is_share: bool
    """Whether percent is its unit."""


@dataclass(frozen=True)
class ScoreTable:
    """The evaluation as a grid: one line for each task, one column for each model."""

    models: list[str]
    lines: list[str]
    """Task names; with the metric's name where it is not accuracy."""
    scores: dict[tuple[str, str], Score]
    """By (line, model); a model that was not scored on a task has no entry."""
    parts: dict[str, list[str]]
    """A group's line -> lines of the tasks that it averages."""

    def overall(self) -> list[str]:
        """Return the lines that are not part of a group."""
        inside = {part for parts in self.parts.values() for part in parts}
        return [line for line in self.lines if line not in inside]


def read_run(run_dir: str | Path) -> RunFiles:
    """Read what a run folder holds.

    Raises:
        LopeError: no such folder, no metrics at all, or a `run.yaml` that is no YAML.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise LopeError(f"'{path}' is not a folder; give the folder that `lope train` wrote.")
    metrics = list(METRICS.read(path))
    if not metrics:
        raise LopeError(
            f"{path / METRICS.name} is absent or empty: there is nothing to report before "
            "`lope train` has logged a step."
        )
    config = _read_text(path / "run.yaml")
    results = RESULTS.read(path)
    return RunFiles(
        path=path,
        metrics=metrics,
        validation=list(VALIDATION.read(path)),
        results=results and of_now(results, path, RESULTS.name),
        router=ROUTER.read(path),
        config=config,
        settings=_parse_yaml(path / "run.yaml", config),
        state=STATE.read(path),
        cost=COST.read(path),
        manifest=MANIFEST.read(path),
        losses=_read_losses(path),
        samples=SAMPLES.read(path),
        noise_scores=_read_all(path, "*.json", NoiseScores)
        | _read_all(path, "scores/*.json", NoiseScores),
    )


def score_table(results: dict[str, Any]) -> ScoreTable:
    """Turn the content of `results.json` into a grid.

    Args:
        results: ``{"rows": [{"name": ..., "tasks": {task: {"acc": ..., "acc_stderr": ...}}}]}``
            and, where groups of tasks were scored, ``"groups": {group: [task, ...]}``.
    """
    lines: dict[str, None] = {}
    scores: dict[tuple[str, str], Score] = {}
    for row in results["rows"]:
        for task, figures in row["tasks"].items():
            for metric, figure in metrics_of(figures).items():
                line = line_of(task, metric)
                lines[line] = None
                in_percent = is_share(metric, [figure.value])
                scores[line, row["name"]] = Score(figure.value, figure.stderr, in_percent)
    parts = {
        group: [task for task in tasks if task in lines]
        for group, tasks in results.get("groups", {}).items()
        if group in lines
    }
    return ScoreTable([row["name"] for row in results["rows"]], list(lines), scores, parts)


def line_of(task: str, metric: str) -> str:
    """Return what the line of a metric is called."""
    return task if metric == "acc" else f"{task} ({metric})"


def _by_stage(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        stages.setdefault(str(line["stage"]), []).append(line)
    return stages


def _read_all(folder: Path, pattern: str, shape: Any) -> dict[str, dict[str, Any]]:
    """Return the JSON objects of this shape among the files of a pattern, by name."""
    tables = {}
    for path in sorted(folder.glob(pattern)):
        value = SideFile(path.name, Any).read(path.parent)
        if value is not None and has_shape(value, shape):
            tables[path.name] = value
    return tables


def _read_losses(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return what `lope loss` has measured, by the file's name."""
    folder = run_dir / "losses"
    names = sorted(path.name for path in folder.glob("*.json"))
    tables = {name: loss_file(name).read(folder) for name in names}
    return {
        name: of_now(table, run_dir, f"losses/{name}")
        for name, table in tables.items()
        if table is not None
    }


def _read_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _parse_yaml(path: Path, text: str | None) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text or "")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LopeError(f"{path} is not valid YAML: {error}.") from None
    if settings is not None and not has_sections(settings):
        raise LopeError(f"{path} is not the configuration of a run; restore it from a copy.")
    return settings or {}
