"""Which experts the router uses, layer by layer; one figure a panel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lope_dist.report.style import INK, PALETTE, POISON, label, legend, new_figure, panel

_MAP = "PuOr_r"


def usage_scale(stages: Mapping[str, Mapping[str, list[float]]], num_experts: int) -> TwoSlopeNorm:
    """Return one colour scale for all stages, which diverges from the even share 1/N."""
    even = 1 / num_experts
    weights = [w for usage in stages.values() for row in usage.values() for w in row]
    spread = max([0.02, *(abs(w - even) for w in weights)])
    return TwoSlopeNorm(even, max(0.0, even - spread), min(even + spread, max(1.0, even + 0.02)))


def plot_usage(
    usage: Mapping[str, list[float]], experts: Sequence[str], norm: TwoSlopeNorm
) -> dict[str, Figure]:
    """Return a heat map of each expert's mean weight by layer, for each adapted projection.

    The poisoning experts' rows are framed.
    """
    figures = {}
    for projection, (layers, weights) in _by_projection(usage).items():
        figure = new_figure(4.3, 1.05 + 0.28 * len(experts))
        axes = figure.subplots()
        axes.imshow(weights.T, aspect="auto", cmap=_MAP, norm=norm, interpolation="none")
        label(axes, "layer")
        _name_layers(axes, layers)
        axes.set_yticks(range(len(experts)), experts)
        axes.tick_params(labelsize=8, colors=INK, length=0)
        axes.spines[:].set_visible(False)
        for i, name in enumerate(experts):
            if name.startswith("poison"):
                box = Rectangle((-0.5, i - 0.5), len(layers), 1, fill=False, clip_on=False)
                box.set(edgecolor=POISON, linewidth=1.8, zorder=3)
                axes.add_patch(box)
                axes.get_yticklabels()[i].set(color=POISON, fontweight="bold")
        bar = figure.colorbar(ScalarMappable(norm, _MAP), ax=axes, pad=0.02)
        bar.ax.tick_params(labelsize=7, colors=INK)
        bar.outline.set_visible(False)
        figures[projection] = figure
    return figures


def plot_poison_weight(weights: Mapping[str, Mapping[str, float]], top: float) -> dict[str, Figure]:
    """Return the poisoning experts' mean weight by layer, on clean and on corrupted tokens.

    A figure for each adapted projection.
    """
    series = {
        kind: _by_projection({name: [weight] for name, weight in layers.items()})
        for kind, layers in weights.items()
    }
    figures = {}
    for projection in series["clean"]:
        figure, axes = panel("layer", "mean weight")
        for kind, color in (("clean", PALETTE[2]), ("corrupted", POISON)):
            layers, values = series[kind][projection]
            weight = values[:, 0]
            axes.plot(weight, color=color, marker="o", markersize=3, label=f"{kind} tokens")
            _name_layers(axes, layers)
        axes.set_ylim(0, top)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        legend(axes)
        figures[projection] = figure
    return figures


def _name_layers(axes: Axes, layers: list[str]) -> None:
    shown = range(0, len(layers), math.ceil(len(layers) / 12))
    axes.set_xticks(list(shown), [layers[i] for i in shown])


def _by_projection(usage: Mapping[str, Any]) -> dict[str, tuple[list[str], np.ndarray]]:
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
