"""Evaluation results and noise scores as figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lope_dist.report.read import ScoreTable
from lope_dist.report.style import (
    INK,
    MUTED,
    PALETTE,
    POISON,
    SIZE,
    label,
    legend,
    new_figure,
    panel,
    tidy,
)

_SHOWN = 5  # curves that can be told apart, columns that a terminal has


def plot_results(table: ScoreTable) -> Figure | None:
    """Draw shares as bars with one standard error to each side; parts of groups are left out.

    Returns:
        None where there are no shares.
    """
    shares = {line for (line, _), score in table.scores.items() if score.is_share}
    lines, num_models = [line for line in table.overall() if line in shares], len(table.models)
    if not lines:
        return None
    legend_rows = -(-num_models // 2)
    rows = (num_models + 1) * len(lines)
    size = (4.6, 0.8 + 0.17 * legend_rows + 0.13 * rows)
    figure, axes = panel("accuracy, %  (± 1 standard error)", size=size, grid="x")
    height = 0.84 / num_models
    for i, model in enumerate(table.models):
        scores = [(k, table.scores.get((line, model))) for k, line in enumerate(lines)]
        present = [(k, score) for k, score in scores if score is not None and score.is_share]
        centres = [k + (i - (num_models - 1) / 2) * height for k, _ in present]
        axes.barh(
            centres,
            [100 * score.value for _, score in present],
            height * 0.92,
            xerr=[100 * (score.stderr or 0.0) for _, score in present],
            color=PALETTE[i % len(PALETTE)],
            error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 1.5},
            label=model,
        )
    axes.set_yticks(range(len(lines)), lines)
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.set_xlim(0, 100)
    axes.spines["left"].set_color(MUTED)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=min(2, num_models),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return figure


def plot_histogram(summary: dict[str, Any]) -> Figure:
    """Draw how many examples have which noise score, noisy and clean ones apart if known."""
    figure = new_figure(*SIZE)
    _histogram(figure.subplots(), summary)
    return figure


def plot_ranking(summary: dict[str, Any]) -> Figure:
    """Draw the histogram and, where the truth is known, ROC curves beside it."""
    detection = summary.get("detection") or {}
    if "roc" not in detection:
        return plot_histogram(summary)
    figure = new_figure(2 * SIZE[0], SIZE[1])
    left, right = figure.subplots(1, 2)
    _histogram(left, summary)
    _curves(right, detection, summary["by"])
    return figure


def shown_scores(detection: dict[str, Any], by: str) -> list[str]:
    """Return the score that ranks, the base model's loss and the best others, by their area."""
    areas = detection["groups"]["all"]["auroc"]
    best = sorted(areas, key=lambda name: -areas[name])
    return list(dict.fromkeys([by, "base_loss", *best]))[:_SHOWN]


def _histogram(axes: Axes, summary: dict[str, Any]) -> None:
    edges = summary["histogram"]["edges"]
    for name, color in (("all", PALETTE[2]), ("clean", PALETTE[2]), ("noisy", POISON)):
        if name in summary["histogram"]:
            counts = summary["histogram"][name]
            axes.stairs(counts, edges, fill=True, alpha=0.55, color=color, label=f"{name} examples")
    label(axes, summary["by"], "examples")
    legend(axes, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    tidy(axes)


def _curves(axes: Axes, detection: dict[str, Any], by: str) -> None:
    """Draw the ROC of the scores of `shown_scores`."""
    alarms = np.linspace(0, 1, len(detection["roc"][by]))
    colors = iter(PALETTE[2:])
    for name in shown_scores(detection, by):
        color = POISON if name == by else PALETTE[0] if name == "base_loss" else next(colors)
        area = detection["groups"]["all"]["auroc"][name]
        axes.plot(alarms, detection["roc"][name], color=color, label=f"{name}  {area:.3f}")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    label(axes, "clean examples taken for noisy", "noisy examples found")
    legend(axes, loc="lower right")
    tidy(axes, grid="both")
