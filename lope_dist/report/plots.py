"""Loss curves, router usage and evaluation results as matplotlib figures."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lope_dist.report.read import RunFiles, ScoreTable
from lope_dist.report.style import INK, MUTED, PALETTE, POISON, new_figure, tidy
from lope_dist.report.tables import model_label


def plot_loss(run: RunFiles) -> Figure:
    """Draw the loss of each stage: each logged step, and a running mean over it."""
    stages = run.stages()
    figure = new_figure(max(6.0, 4.2 * len(stages)), 3.2)
    all_axes = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, (stage, lines) in zip(all_axes, stages.items(), strict=True):
        steps = np.array([int(line["step"]) + 1 for line in lines])
        loss = np.array([float(line["loss"]) for line in lines])
        smooth, window = running_mean(loss)
        marker = "o" if len(loss) < 3 else None
        axes.plot(steps, loss, color=PALETTE[1], alpha=0.55, linewidth=1, label="each step")
        axes.plot(
            steps, smooth, color=PALETTE[2], linewidth=2, marker=marker, label=f"mean of {window}"
        )
        axes.set_title(f"stage {stage}", fontsize=10, color=INK, loc="left")
        axes.set_xlabel("optimizer step", fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        tidy(axes)
    all_axes[0].set_ylabel("loss, nats per response token", fontsize=9, color=INK)
    all_axes[0].set_ylim(bottom=0)
    return figure


def running_mean(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the centred mean over a tenth of the points (3 to 51) and that window's width.

    At the ends the window is cut, so that no point is invented.
    """
    window = min(max(3, len(values) // 10 | 1), 51)
    kernel = np.ones(window)
    total = np.convolve(values, kernel)[window // 2 : window // 2 + len(values)]
    count = np.convolve(np.ones(len(values)), kernel)[window // 2 : window // 2 + len(values)]
    return total / count, window


def plot_router(router: dict[str, Any]) -> Figure:
    """Draw each expert's mean weight by layer: a row of heat maps for each stage.

    Colours diverge from the even share 1/N; the poisoning experts' rows are framed.
    """
    experts = [str(name) for name in router["experts"]]
    stages = {name: usage for name, usage in router.items() if name != "experts" and usage}
    panels = {stage: _by_projection(usage) for stage, usage in stages.items()}
    columns = max((len(groups) for groups in panels.values()), default=1)
    even = 1 / len(experts)
    weights = [w for usage in stages.values() for row in usage.values() for w in row]
    spread = max([0.02, *(abs(w - even) for w in weights)])
    norm = TwoSlopeNorm(even, max(0.0, even - spread), min(even + spread, max(1.0, even + 0.02)))

    figure = new_figure(
        max(6.0, 4.4 * columns + 0.8), 0.9 + (0.9 + 0.28 * len(experts)) * len(panels)
    )
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for row, (stage, groups) in zip(grid, panels.items(), strict=True):
        for axes in row[len(groups) :]:
            axes.set_visible(False)
        for axes, (projection, (layers, usage)) in zip(row, groups.items(), strict=False):
            axes.imshow(usage.T, aspect="auto", cmap="PuOr_r", norm=norm)
            axes.set_title(f"stage {stage}: {projection}", fontsize=9, color=INK, loc="left")
            axes.set_xlabel("layer", fontsize=9, color=INK)
            shown = range(0, len(layers), math.ceil(len(layers) / 12))
            axes.set_xticks(list(shown), [layers[i] for i in shown])
            axes.set_yticks(range(len(experts)), experts)
            axes.tick_params(labelsize=8, colors=INK, length=0)
            axes.spines[:].set_visible(False)
            for i, name in enumerate(experts):
                if name.startswith("poison"):
                    box = Rectangle((-0.5, i - 0.5), len(layers), 1, fill=False, clip_on=False)
                    box.set(edgecolor=POISON, linewidth=1.8, zorder=3)
                    axes.add_patch(box)
                    axes.get_yticklabels()[i].set(color=POISON, fontweight="bold")
    bar = figure.colorbar(ScalarMappable(norm, "PuOr_r"), ax=grid, shrink=0.85, pad=0.015)
    bar.set_label(f"mean router weight (even share {even:.2f})", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    return figure


def plot_scores(table: ScoreTable) -> Figure:
    """Draw the scores as bars with one standard error to each side.

    What is not part of a group comes on top; below, a column for each group shows its parts.
    """
    groups = {head: parts for head, parts in table.parts.items() if parts}
    heads, longest = table.overall(), max(map(len, groups.values()), default=0)
    heights = [0.145 * (len(table.models) + 1) * n for n in (len(heads), longest) if n]
    figure = new_figure(9.0, 1.1 + sum(heights) + 0.6 * (len(heights) - 1))
    grid = figure.add_gridspec(len(heights), max(1, len(groups)), height_ratios=heights)
    top = figure.add_subplot(grid[0, :])
    _draw_bars(top, table, {line: line for line in heads})
    for column, (head, parts) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[1, column])
        axes.set_title(f"parts of {head}", fontsize=9, color=INK, loc="left")
        _draw_bars(axes, table, {line: line.removeprefix(f"{head}_") for line in parts})
    handles, labels = top.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8
    )
    return figure


def _draw_bars(axes: Axes, table: ScoreTable, lines: dict[str, str]) -> None:
    """Draw one group of bars for each line, under the name that ``lines`` gives it."""
    num_models = len(table.models)
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
    axes.set_yticks(range(len(lines)), list(lines.values()))
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %  (± 1 standard error)", fontsize=9, color=INK)
    tidy(axes, grid="x")
    axes.spines["left"].set_color(MUTED)
    axes.tick_params(axis="y", length=0)


def _by_projection(usage: dict[str, list[float]]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Group modules that differ by their layer's number: name -> (layers, weights).

    Shapes: weights ``(layers, experts)``.
    """
    groups: dict[str, list[tuple[str, list[float]]]] = {}
    for module, weights in usage.items():
        number = re.search(r"\d+", module)
        pattern = re.sub(r"\d+", "*", module)
        groups.setdefault(pattern, []).append((number.group() if number else "", weights))
    last = [pattern.rpartition(".")[2] for pattern in groups]
    return {
        name if last.count(name) == 1 else pattern: (
            [layer for layer, _ in rows],
            np.array([weights for _, weights in rows], dtype=float),
        )
        for name, (pattern, rows) in zip(last, groups.items(), strict=True)
    }
