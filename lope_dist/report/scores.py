"""The summary of `lope score` as a plot and a console table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from lope_dist.report.style import INK, MUTED, PALETTE, POISON, new_figure, tidy

_CURVES = 5


def print_scores(summary: dict[str, Any]) -> None:
    """Print what was ranked and, where the truth is known, a line for each score."""
    console = Console()
    unscored = f", {summary['num_unscored']} without a score" if summary["num_unscored"] else ""
    console.print(f"{summary['num_rows']:,} examples ranked by {summary['by']}{unscored}")
    found = summary.get("detection")
    if found is None or not found["groups"]:
        return
    groups = found["groups"]
    title = f"AUROC: {found['num_noisy']:,} noisy, {found['num_clean']:,} clean examples"
    table = Table(title=title, caption="noisy examples of each column in brackets")
    table.add_column("score", no_wrap=True)
    for name, group in groups.items():
        head = name.removeprefix("operation: ").removeprefix("field: ")
        table.add_column(f"{head}\n({group['num_noisy']})", justify="right")
    for score in by_area(found):
        cells = (f"{group['auroc'][score]:.3f}" for group in groups.values())
        table.add_row(f"[bold]{score}[/bold]" if score == summary["by"] else score, *cells)
    console.print(table)
    at = found["precision_at"][summary["by"]]
    parts = ", ".join(f"{100 * value:.0f} % of the first {k}" for k, value in at.items())
    console.print(f"Noisy by {summary['by']}: {parts}")


def by_area(found: dict[str, Any]) -> list[str]:
    """Return the scores, the best at telling all noisy examples first."""
    areas = found["groups"]["all"]["auroc"]
    return sorted(areas, key=lambda name: -areas[name])


def plot_scores(summary: dict[str, Any], path: Path) -> None:
    """Write a histogram of the ranking score and, where the truth is known, ROC curves."""
    if "histogram" not in summary:
        return
    found = summary.get("detection", {})
    has_curves = bool(found.get("roc"))
    figure = new_figure(8.6 if has_curves else 4.6, 3.6)
    axes = figure.subplots(1, 2 if has_curves else 1, squeeze=False)[0]
    _histogram(axes[0], summary)
    if has_curves:
        _curves(axes[1], found, summary["by"])
    figure.savefig(path)


def _histogram(axes: Axes, summary: dict[str, Any]) -> None:
    parts = dict(summary["histogram"])
    edges = parts.pop("edges")
    colors = {"all": PALETTE[2], "clean": PALETTE[2], "noisy": POISON}
    for name in ("all", "clean", "noisy"):
        if name in parts:
            axes.stairs(parts[name], edges, fill=True, alpha=0.55, color=colors[name], label=name)
    tidy(axes)
    axes.set_xlabel(summary["by"], color=INK, fontsize=9)
    axes.set_ylabel("examples", color=INK, fontsize=9)
    if len(parts) > 1:
        axes.legend(frameon=False, fontsize=8)


def _curves(axes: Axes, found: dict[str, Any], by: str) -> None:
    """Draw the ranking score, the base model's loss and the best others."""
    shown = list(dict.fromkeys([by, "base_loss", *by_area(found)]))[:_CURVES]
    alarms = np.linspace(0, 1, len(found["roc"][by]))
    others = iter(PALETTE[2:])
    for name in shown:
        color = POISON if name == by else PALETTE[0] if name == "base_loss" else next(others)
        area = found["groups"]["all"]["auroc"][name]
        axes.plot(alarms, found["roc"][name], color=color, label=f"{name} {area:.3f}", lw=1.6)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=":")
    tidy(axes, grid="both")
    axes.set_xlabel("clean examples taken for noisy", color=INK, fontsize=9)
    axes.set_ylabel("noisy examples found", color=INK, fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
