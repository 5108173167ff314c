"""A study's figures: a metric over an axis or row by row, claims, and drift."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lope_dist.report.style import (
    INK,
    MUTED,
    PALETTE,
    POISON,
    label,
    legend,
    new_figure,
    panel,
    tidy,
)
from lope_dist.study.summary import Summary
from lope_dist.study.tables import column_title, row_title

_POISON_ROLE = "poison_b"
_MOST_ROWS, _MOST_CLAIMS = 30, 15
"""Of one plot; more are paged."""
_LABEL_WIDTH = 60
"""Characters of a line beside a plot."""


def study_figures(summary: Summary) -> dict[str, tuple[Figure, str]]:
    """Return name -> figure and caption, of all that there is something to show of."""
    figures: dict[str, tuple[Figure, str]] = {}
    axis = _numeric_axis(summary)
    for metric in summary["columns"]:
        name = re.sub(r"[^A-Za-z0-9]+", "-", metric)
        title = column_title(summary, metric)
        if axis is not None:
            figures[name] = _plot_axis(summary, metric), title
            continue
        rows = [row for row in summary["rows"] if metric in row["figures"]]
        for suffix, of_page, page in _pages(rows, _MOST_ROWS):
            figures[name + suffix] = _plot_rows(summary, metric, rows, page), title + of_page
    judged = [claim for claim in summary["claims"] if claim["ci95"] is not None]
    for metric in dict.fromkeys(claim["metric"] for claim in judged):
        shown = [claim for claim in judged if claim["metric"] == metric]
        name = "claims-" + re.sub(r"[^A-Za-z0-9]+", "-", metric)
        title = f"Claims: {column_title(summary, metric)}, effect and 95 % interval"
        for suffix, of_page, page in _pages(shown, _MOST_CLAIMS):
            figures[name + suffix] = _plot_claims(summary, page), title + of_page
    for noise, methods in summary["recovered"].items():
        title = f"Share of the cost of '{noise}' that is recovered, and 95 % interval"
        figures[f"recovered-{noise}"] = _plot_recovered(methods), title
    for group in dict.fromkeys(line["group"] for line in summary["drift"]):
        shown = [line for line in summary["drift"] if line["group"] == group]
        figures[f"drift-{group}"] = _plot_drift(shown), f"Drift of parameters: {group}"
    return figures


def _numeric_axis(summary: Summary) -> list[float] | None:
    """Return the points of a study's only axis as numbers, None where they are none."""
    if len(summary["axes"]) != 1:
        return None
    (points,) = summary["axes"].values()
    try:
        return [float(point) for point in points]
    except ValueError:
        return None


def _scale(summary: Summary, metric: str) -> float:
    return 100.0 if metric in summary["shares"] else 1.0


def _pages(items: list[Any], most: int) -> Iterator[tuple[str, str, list[Any]]]:
    """Yield the items page by page, each with what its file's name and its caption end in."""
    num_pages = -(-len(items) // most)
    size = -(-len(items) // num_pages) if num_pages else 0  # about as many on each
    for number in range(num_pages):
        page = items[number * size : (number + 1) * size]
        if num_pages == 1:
            yield "", "", page
        else:
            yield f"-{number + 1}", f" ({number + 1} of {num_pages})", page


def _plot_rows(
    summary: Summary, metric: str, rows: list[dict[str, Any]], page: list[dict[str, Any]]
) -> Figure:
    """Draw a metric for a page of the rows: each seed, and the mean with its standard deviation.

    Means far from the others are written at the edge: the axis is for the rest.
    """
    scale = _scale(summary, metric)
    title = f"{column_title(summary, metric)}  (± 1 standard deviation over seeds)"
    figure, axes = panel(title, size=(9.0, 0.8 + 0.27 * len(page)), grid="both")
    low, high = _fences([scale * row["figures"][metric]["mean"] for row in rows])
    colors = _colors([row["variant"] for row in rows])
    for y, row in enumerate(page):
        figures = row["figures"][metric]
        color = colors[row["variant"]]
        mean = scale * figures["mean"]
        if not low <= mean <= high:
            x, marker, side = (1.0, ">", "right") if mean > high else (0.0, "<", "left")
            edge = axes.get_yaxis_transform()
            axes.plot(x, y, marker, color=color, transform=edge, clip_on=False)
            text = f"   {mean:.4g}   "
            axes.text(x, y, text, transform=edge, ha=side, va="center", fontsize=8, color=INK)
            continue
        values = [scale * value for value in figures["values"].values()]
        axes.plot(values, [y] * len(values), ".", color=color, alpha=0.5, markersize=5)
        spread = scale * (figures["sd"] or 0.0)
        axes.errorbar(mean, y, xerr=spread, fmt="o", color=color, capsize=2)
        if figures["paper"] is not None:
            axes.plot(figures["paper"], y, "x", color=MUTED)
    axes.set_yticks(range(len(page)), [row_title(row) for row in page])
    axes.set_ylim(len(page) - 0.5, -0.5)
    return figure


def _fences(means: list[float]) -> tuple[float, float]:
    """Return the ends of what is not far from the rest: three interquartile ranges off."""
    low, high = np.quantile(means, (0.25, 0.75))
    return low - 3 * (high - low), high + 3 * (high - low)


def _plot_axis(summary: Summary, metric: str) -> Figure:
    """Draw a metric over the study's axis, a line for each variant and row."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in summary["rows"]:
        if metric in row["figures"]:
            lines.setdefault((row["variant"], row["row"]), []).append(row)
    scale = _scale(summary, metric)
    xlabel = next(iter(summary["axes"]))
    figure, axes = panel(xlabel, column_title(summary, metric), size=(6.4, 3.6))
    for number, rows in enumerate(lines.values()):
        color = PALETTE[(number + 2) % len(PALETTE)]
        x = [float(row["points"][0]) for row in rows]
        figures = [row["figures"][metric] for row in rows]
        y = [scale * entry["mean"] for entry in figures]
        spread = [scale * (entry["sd"] or 0.0) for entry in figures]
        label = f"{rows[0]['label']}: {rows[0]['row']}"
        axes.errorbar(x, y, yerr=spread, marker="o", color=color, capsize=2, label=label)
        paper = [(p, entry["paper"]) for p, entry in zip(x, figures, strict=True) if entry["paper"]]
        if paper:
            axes.plot(*zip(*paper, strict=True), "x--", color=color, alpha=0.6, linewidth=1)
    legend(axes)
    return figure


def _plot_claims(summary: Summary, claims: list[dict[str, Any]]) -> Figure:
    labels = [textwrap.fill(claim["claim"], _LABEL_WIDTH) for claim in claims]
    num_lines = sum(label.count("\n") + 1 for label in labels)
    size = (9.0, 0.8 + 0.16 * (num_lines + len(claims)))
    figure, axes = panel("effect; right of 0 is as claimed", size=size, grid="x")
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, claim in enumerate(claims):
        scale = _scale(summary, claim["metric"])
        low, high = (scale * end for end in claim["ci95"])
        color = {True: PALETTE[2], False: POISON, None: PALETTE[0]}[claim["held"]]
        axes.plot([low, high], [y, y], color=color, linewidth=2)
        axes.plot(scale * claim["effect"], y, "o", color=color)
    axes.set_yticks(range(len(claims)), labels)
    axes.set_ylim(len(claims) - 0.5, -0.5)
    return figure


def _plot_recovered(methods: dict[str, dict[str, Any]]) -> Figure:
    """Draw each method's share; 0 is the floor, 1 the ceiling."""
    shares = {name: entry for name, entry in methods.items() if entry["share"] is not None}
    order = sorted(shares, key=lambda name: shares[name]["share"], reverse=True)
    size = (7.0, 0.9 + 0.27 * max(1, len(order)))
    figure, axes = panel("0: best baseline with the noise; 1: without it", size=size, grid="x")
    for end in (0, 1):
        axes.axvline(end, color=MUTED, linewidth=1)
    for y, name in enumerate(order):
        entry = shares[name]
        if entry["ci95"] is not None:
            axes.plot(entry["ci95"], [y, y], color=PALETTE[0], linewidth=2)
        axes.plot(entry["share"], y, "o", color=PALETTE[0])
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(max(1, len(order)) - 0.5, -0.5)
    return figure


def _plot_drift(lines: list[dict[str, Any]]) -> Figure:
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    figure = new_figure(max(4.5, 3.6 * len(stages)), 2.8)
    all_axes = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    roles = list(dict.fromkeys(line["role"] for line in lines))
    colors = {role: PALETTE[(i + 1) % len(PALETTE)] for i, role in enumerate(roles)}
    colors[_POISON_ROLE] = POISON
    for axes, stage in zip(all_axes, stages, strict=True):
        for line in lines:
            if line["stage"] == stage:
                x, y = zip(*line["points"], strict=True)
                axes.plot(x, y, color=colors[line["role"]], label=line["role"])
        axes.set_title(f"stage {stage}", fontsize=10, color=INK, loc="left")
        label(axes, "optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend(axes)
        tidy(axes)
    label(all_axes[0], "optimizer step", "mean absolute change")
    return figure


def _colors(names: list[str]) -> dict[str, str]:
    distinct = list(dict.fromkeys(names))
    return {name: PALETTE[(i + 1) % len(PALETTE)] for i, name in enumerate(distinct)}
