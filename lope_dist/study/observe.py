"""Figures of a study's runs, read from the JSON files that the runs hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.metrics import metrics_of
from lope_dist.core.questions import read_scores
from lope_dist.core.side_files import COST, METRICS, RESULTS, ROUTER, loss_file
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.study.cells import CHOSEN, Cell, Study
from lope_dist.study.changes import changes_of
from lope_dist.study.records import recorded_inputs
from lope_dist.study.suites import Asked, asked_of, is_as_asked


@dataclass(frozen=True)
class Documents:
    """What the single documents of one file or task add to a ratio of two sums."""

    ids: tuple[int, ...]
    totals: np.ndarray
    """Loss in nats of each, or its score, ``(documents,)``."""
    counts: np.ndarray
    """Tokens of each, or 1, ``(documents,)``."""
    share: float = 1.0
    """What the ratio counts in the figure."""
    may_differ: bool = False
    """Whether others may hold other documents: a task is scored with any limit, losses are all of
    the study's own file."""


@dataclass(frozen=True)
class Observation:
    """One figure of one run."""

    value: float
    source: str
    """The file that it is from."""
    stderr: float | None = None
    """Standard error over the documents."""
    documents: tuple[Documents, ...] = ()
    """The figure is the sum of their ratios by share; empty where they are not known."""
    is_base: bool = False
    """Whether it is of the base model, and so the same for all seeds."""


Series = dict[int, Observation]
"""Seed -> figure."""


class Observations:
    """All figures of a study: (group, row, metric) -> those of each seed."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._series: dict[tuple[str, str, str], Series] = {}
        self.seconds: dict[str, dict[int, dict[str, Any]]] = {}
        """Group -> seed -> `cost.json`."""
        self.trained: set[str] = set()
        """Names of the cells that are trained to their end, and as they are described now."""
        self.changed: dict[str, list[str]] = {}
        """Cell whose run is another one than is described now -> how it differs."""
        self.chosen: dict[str, dict[int, str]] = {}
        """Group -> seed -> the row that `chosen` is there."""

    def add(self, cell: Cell, row: str, metric: str, seen: Observation) -> None:
        """Add a figure of a cell."""
        self._series.setdefault((cell.group.name, row, metric), {})[cell.seed] = seen

    def series(self, group: str, row: str, metric: str) -> Series:
        """Return the figures of each seed; nothing where there are none."""
        return self._series.get((group, row, metric), {})

    def metrics(self) -> list[str]:
        """Return all metrics in the order in which they were met."""
        return list(dict.fromkeys(metric for _, _, metric in self._series))

    def values(self, metric: str) -> list[float]:
        """Return a metric's figures of all rows and seeds."""
        return [
            seen.value
            for (_, _, of), series in self._series.items()
            if of == metric
            for seen in series.values()
        ]

    def rows(self) -> list[tuple[str, str]]:
        """Return all (group, row) in the order in which they were met."""
        return list(dict.fromkeys((group, row) for group, row, _ in self._series))

    def tokens(self, group: str, seeds: list[int]) -> int:
        """Return how many tokens a group's runs of these seeds were trained on."""
        costs = [self.seconds.get(group, {}).get(seed, {}) for seed in seeds]
        stages = [stage for cost in costs for stage in cost.values() if isinstance(stage, dict)]
        return sum(stage.get("tokens", 0) for stage in stages)

    def add_means(self, means: dict[str, tuple[str, ...]]) -> None:
        """Add the mean of several metrics wherever all of them are known."""
        for group, row in self.rows():
            for name, parts in means.items():
                series_of_parts = [self.series(group, row, part) for part in parts]
                for seed in set.intersection(*(set(series) for series in series_of_parts)):
                    figures = [series[seed] for series in series_of_parts]
                    self._series.setdefault((group, row, name), {})[seed] = _mean(figures)

    def choose(self, group: str, rows: tuple[str, ...], metric: str) -> None:
        """Add the row `chosen`: for each seed with all of ``rows`` the one of the lowest figure.

        It has no figure of ``metric``, which would look too good, and of others those that are
        known of every row that was chosen.
        """
        by_row = {row: self.series(group, row, metric) for row in rows}
        seeds = sorted(set.intersection(*(set(series) for series in by_row.values())))
        if not seeds:
            return
        best = {seed: min(rows, key=lambda row: by_row[row][seed].value) for seed in seeds}
        self.chosen[group] = best
        for other in self.metrics():
            seen = {s: self.series(group, row, other).get(s) for s, row in best.items()}
            whole = {seed: figure for seed, figure in seen.items() if figure is not None}
            if other != metric and len(whole) == len(seeds):
                self._series[group, CHOSEN, other] = whole


def observe(study: Study) -> Observations:
    """Read the results of a study's runs so far. Damaged files are left out and reported."""
    observations = Observations(study)
    scores = partial(_scores, asked_of(study, study.config.evaluate.suites.values()))
    for cell in study.cells:
        if changes := changes_of(cell):
            observations.changed[cell.name] = changes
            continue
        if recorded_inputs(cell, "train") is None:
            continue  # drift and cost of a part of a run are not those of the run
        observations.trained.add(cell.name)
        for reader in (losses_of, scores, _drift, _router):
            for row, metric, seen in reader(study, cell):
                observations.add(cell, row, metric, replace(seen, is_base=row in ("none", "base")))
        if (cost := COST.read(cell.folder)) is not None:
            observations.seconds.setdefault(cell.group.name, {})[cell.seed] = cost
    observations.add_means(study.config.means)
    if (metric := study.config.choose_on) is not None:
        for name, group in study.groups.items():
            if rows := study.config.variants[group.variant].choose_from:
                observations.choose(name, rows, metric)
    return observations


Seen = Iterator[tuple[str, str, Observation]]


def losses_of(study: Study, cell: Cell) -> Seen:
    """Yield row, metric and figure of each loss of a cell that was taken on the file as it is."""
    for name in study.config.evaluate.losses:
        data = study.data_file(name)
        path = cell.folder / "losses" / f"{data.stem}.json"
        recorded = recorded_inputs(cell, f"loss-{data.stem}")
        if recorded is None or fingerprint([data]) not in (recorded["data"], None):
            continue  # not there yet, or of other texts; where the file is gone, nothing tells
        table = loss_file(path.name).read(path.parent) or {"rows": {}}
        for row, entry in _asked(cell, table["rows"]):
            if row not in recorded["rows"]:
                continue  # still at work
            per_row = [row_loss for row_loss in entry["per_row"] if row_loss[2] > 0]
            if not per_row:
                continue
            ids, totals, counts = zip(*per_row, strict=True)
            documents = Documents(ids, np.array(totals), np.array(counts, dtype=float))
            seen = Observation(
                entry["loss_per_token"], str(path), entry.get("stderr"), (documents,)
            )
            yield row, study.loss_metric(name), seen


def _scores(asked: Asked, _study: Study, cell: Cell) -> Seen:
    path = cell.folder / RESULTS.name
    table: dict[str, Any] = RESULTS.read(cell.folder) or {"rows": []}
    entries = {e["name"]: e for e in table["rows"]}
    for row, entry in _asked(cell, entries):
        for task, figures in entry["tasks"].items():
            if not is_as_asked(asked, table, entry, task):
                continue  # scored by hand
            for metric, figure in metrics_of(figures).items():
                documents = _questions(cell.folder, entry, task, metric)
                seen = Observation(figure.value, str(path), figure.stderr, documents)
                yield row, f"{metric}:{task}", seen


def _questions(run: Path, entry: dict[str, Any], task: str, metric: str) -> tuple[Documents, ...]:
    return tuple(
        Documents(
            ids=tuple(of_task.scores),
            totals=np.array(list(of_task.scores.values())),
            counts=np.ones(len(of_task.scores)),
            share=of_task.share,
            may_differ=True,
        )
        for of_task in read_scores(run, entry, task, metric)
    )


def _drift(_study: Study, cell: Cell) -> Seen:
    path = cell.folder / METRICS.name
    last = {line["stage"]: line["drift"] for line in METRICS.read(cell.folder) if line.get("drift")}
    for stage, drift in last.items():
        for role, value in drift.items():
            yield role, f"drift:{stage}", Observation(value, str(path))


def _router(_study: Study, cell: Cell) -> Seen:
    path = cell.folder / ROUTER.name
    weights = (ROUTER.read(cell.folder) or {}).get("poison_weight")
    for stage, kinds in (weights or {}).items():
        for kind, layers in kinds.items():
            if layers:
                mean = math.fsum(layers.values()) / len(layers)
                yield kind, f"poison_weight:{stage}", Observation(mean, str(path))


def _asked(cell: Cell, entries: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows that the cell asks for, as they are asked for, that are known."""
    for asked, row in zip(cell.rows, rows_for(cell.rows, cell.config.adapter), strict=True):
        if row.name in entries:
            yield asked, entries[row.name]


def _mean(figures: list[Observation]) -> Observation:
    all_errors = [figure.stderr for figure in figures]
    errors = [error for error in all_errors if error is not None]
    stderr = math.hypot(*errors) / len(figures) if len(errors) == len(figures) else None
    value = math.fsum(figure.value for figure in figures) / len(figures)
    documents = ()
    if all(figure.documents for figure in figures):
        documents = tuple(
            replace(part, share=part.share / len(figures))
            for figure in figures
            for part in figure.documents
        )
    return Observation(value, figures[0].source, stderr, documents, figures[0].is_base)


def curves(run: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return a run's drift: (stage, role) -> (step, mean absolute change)."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in METRICS.read(run):
        for role, value in (line.get("drift") or {}).items():
            points.setdefault((line["stage"], role), []).append((line["step"] + 1, value))
    return points
