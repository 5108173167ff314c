"""Evaluation results and noise scores as figures."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from lope_dist.report.plots import SIZE
from lope_dist.report.read import ScoreTable
from lope_dist.report.style import INK, MUTED, PALETTE, POISON, new_figure, tidy
from lope_dist.report.tables import model_label


def plot_results(table: ScoreTable) -> Figure:
    """Draw scores as bars with one standard error to each side; parts of groups are left out."""
    lines, num_models = table.overall(), len(table.models)
    legend_rows = -(-num_models // 2)
    rows = (num_models + 1) * len(lines)
    figure = new_figure(4.6, 0.8 + 0.17 * legend_rows + 0.13 * rows)
    axes = figure.subplots()
    height = 0.84 / num_models
    for i, model in enumerate(table.models):
        found = [(k, table.scores.get((line, model))) for k, line in enumerate(lines)]
        present = [(k, score) for k, score in found if score is not None]
        centres = [k + (i - (num_models - 1) / 2) * height for k, _ in present]
        axes.barh(
            centres,
            [100 * score.value for _, score in present],
            height * 0.92,
            xerr=[100 * (score.stderr or 0.0) for _, score in present],
            color=PALETTE[i % len(PALETTE)],
            error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 1.5},
            label=model_label(model),
        )
    axes.set_yticks(range(len(lines)), lines)
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %  (± 1 standard error)", fontsize=9, color=INK)
    tidy(axes, grid="x")
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
    axes = figure.subplots()
    edges = summary["histogram"]["edges"]
    for name, color in (("all", PALETTE[2]), ("clean", PALETTE[2]), ("noisy", POISON)):
        if name in summary["histogram"]:
            counts = summary["histogram"][name]
            axes.stairs(counts, edges, fill=True, alpha=0.55, color=color, label=f"{name} examples")
    axes.set_xlabel(summary["by"], fontsize=9, color=INK)
    axes.set_ylabel("examples", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    tidy(axes)
    return figure
