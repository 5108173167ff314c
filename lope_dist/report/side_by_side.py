"""Several runs on one page: what differs, what they scored, what they took, their curves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.memory import format_bytes
from lope_dist.report.page import page, paragraph, plot, plots, table
from lope_dist.report.plots import running_mean
from lope_dist.report.read import RunFiles, read_run, score_table
from lope_dist.report.style import PALETTE, SIZE, begin_at_zero, legend, panel
from lope_dist.report.tables import (
    ABSENT,
    SCORES,
    format_duration,
    format_score,
    stage_costs,
)

_COLORS = (*PALETTE[2:], PALETTE[0], PALETTE[1])
_NO_SETTING = ("output_dir",)


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write a page on several runs side by side; return its path.

    Raises:
        LopeError: a folder that is no run, or one that is named twice.
    """
    runs = dict(zip(_names(run_dirs), map(read_run, run_dirs), strict=True))
    sections = {
        "Runs": _summary(runs),
        "Settings that differ": _settings(runs),
        "Evaluation": _scores(runs),
        "Training loss": _losses(runs),
        "Validation loss": _validation(runs),
    }
    intro = paragraph("Runs side by side, in the order in which they were given.")
    write_atomic(out, page(f"{len(runs)} runs", intro, sections))
    return out


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders' paths that tell them apart."""
    paths = [path.resolve() for path in run_dirs]
    if len(set(paths)) < len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise LopeError(f"The run {twice} is given twice; give each once.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [os.sep.join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths differ")


def _summary(runs: dict[str, RunFiles]) -> str:
    rows = []
    for name, run in runs.items():
        costs = stage_costs(run)
        peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes]
        steps, tokens = sum(c.num_steps for c in costs), sum(c.num_tokens for c in costs)
        seconds = sum(cost.time_s for cost in costs)
        status = str((run.state or {}).get("status", "running"))
        rate = tokens / seconds if seconds > 0 else 0.0
        peak = format_bytes(max(peaks)) if peaks else ABSENT
        last = f"{costs[-1].last_loss:.3f}"
        row = [name, status, f"{steps:,}", f"{tokens:,}", format_duration(seconds)]
        rows.append([*row, f"{rate:,.0f}", peak, last])
    head = ["run", "status", "steps", "tokens", "time", "tokens/s", "peak memory", "last loss"]
    return table(head, rows)


def _settings(runs: dict[str, RunFiles]) -> str:
    flat = {
        name: dict(_flat(run.settings)) | _fingerprints(run.manifest) for name, run in runs.items()
    }
    keys = sorted({key for settings in flat.values() for key in settings} - {*_NO_SETTING})
    rows = []
    for key in keys:
        values = [settings.get(key, ABSENT) for settings in flat.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    if not rows:
        return paragraph("None.")
    return table(["setting", *runs], rows, is_text=True)


def _fingerprints(manifest: dict[str, Any] | None) -> dict[str, str]:
    """Return what a run's rows and model were, whatever their files are called."""
    fingerprints = (manifest or {}).get("fingerprints") or {}
    return {f"{name} (fingerprint)": str(value)[:12] for name, value in fingerprints.items()}


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", str(value)))
    return flat


def _scores(runs: dict[str, RunFiles]) -> str:
    grids = {n: score_table(r.results) for n, r in runs.items() if r.results and r.results["rows"]}
    lines = list(dict.fromkeys(line for grid in grids.values() for line in grid.overall()))
    columns = [(name, model) for name, grid in grids.items() for model in grid.models]
    if not lines:
        return ""
    rows = [
        [f"{name}: {model}"]
        + [format_score(grids[name].scores.get((line, model))) for line in lines]
        for name, model in columns
    ]
    return paragraph(f"{SCORES}.") + table(["run", *lines], rows)


def _losses(runs: dict[str, RunFiles]) -> str:
    stages = list(dict.fromkeys(stage for run in runs.values() for stage in run.stages()))
    figures = []
    for stage in stages:
        curves = {}
        for name, run in runs.items():
            lines = run.stages().get(stage, [])
            if lines:
                loss, _ = running_mean(np.array([float(line["loss"]) for line in lines]))
                curves[name] = ([int(line["step"]) + 1 for line in lines], list(loss))
        figures.append(plot(_curves(curves), f"loss-{len(figures)}", f"{stage}: loss, smoothed"))
    return plots(figures, are_broad=True)


def _validation(runs: dict[str, RunFiles]) -> str:
    lines = [line for run in runs.values() for line in run.validation]
    rows = list(dict.fromkeys(row for line in lines for row in line["validation"]))
    figures = []
    for number, row in enumerate(rows):
        curves = {}
        for name, run in runs.items():
            lines = [line for line in run.validation if row in line["validation"]]
            if lines:
                values = [float(line["validation"][row]) for line in lines]
                curves[name] = (list(range(1, len(values) + 1)), values)
        figures.append(plot(_curves(curves, "evaluation"), f"validation-{number}", row))
    return plots(figures, are_broad=True) if figures else ""


def _curves(
    curves: dict[str, tuple[list[int], list[float]]], xlabel: str = "optimizer step"
) -> Figure:
    size = (SIZE[0] * 1.3, SIZE[1] * 1.2)
    figure, axes = panel(xlabel, "loss, nats per response token", size=size, counts_x=True)
    for number, (name, (x, y)) in enumerate(curves.items()):
        marker = "o" if len(x) < 3 else None
        color = _COLORS[number % len(_COLORS)]
        axes.plot(x, y, color=color, linewidth=1.8, marker=marker, label=name)
    begin_at_zero(axes)
    legend(axes)
    return figure
