"""How every plot looks: one palette, light grid, no frame; colours that a page may replace."""

from __future__ import annotations

from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e4e7eb"
POISON = "#c2410c"
"""Whatever shows the poisoning expert."""
PALETTE = ("#9aa5b1", "#74a9cf", "#0b5fa5", "#e08a3c", "#5b8c5a", "#8e6bb0", "#b5495b", "#3c8d8d")
PAPER = "#ffffff"
DARK = {
    INK: "#e4e7eb",
    MUTED: "#8a97a5",
    GRID: "#313b45",
    POISON: "#f08a4b",
    PAPER: "#1b2127",
    PALETTE[1]: "#5686a8",
    PALETTE[2]: "#7fb8e6",
    PALETTE[4]: "#86b884",
    PALETTE[5]: "#b497d3",
    PALETTE[6]: "#e08390",
    PALETTE[7]: "#6fbdbd",
}
"""Colours that a dark page shows otherwise."""


SIZE = (3.6, 2.5)
"""Of a panel, in inches: three fit side by side on a page, one on a phone."""


def panel(
    xlabel: str = "",
    ylabel: str = "",
    *,
    size: tuple[float, float] = SIZE,
    grid: Literal["x", "y", "both"] = "y",
    counts_x: bool = False,
) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; ``counts_x``: whole numbers stand along x."""
    figure = new_figure(*size)
    axes = figure.subplots()
    label(axes, xlabel, ylabel)
    tidy(axes, grid=grid)
    if counts_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure, axes


def label(axes: Axes, xlabel: str = "", ylabel: str = "") -> None:
    """Name the axes."""
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)


def legend(axes: Axes, **options: Any) -> None:
    """Name the curves."""
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **options)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def tidy(axes: Axes, *, grid: Literal["x", "y", "both"] = "y") -> None:
    """Give axes the common look; grid lines along ``x``, ``y`` or ``both``."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def begin_at_zero(axes: Axes) -> None:
    """Let the y axis reach from 0 to a little above all that is drawn."""
    top = 1.08 * axes.dataLim.y1
    axes.set_ylim(0, top if 0 < top < float("inf") else None)
