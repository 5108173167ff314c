"""Curves over a stage's steps: loss, learning rate, gradient norm, drift; one figure a panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lope_dist.report.style import INK, PALETTE, POISON, begin_at_zero, legend, panel

ROLES = {
    "shared_a": ("shared A", PALETTE[2]),
    "normal_b": ("normal B", PALETTE[4]),
    "poison_b": ("poisoning B", POISON),
    "router": ("router", PALETTE[5]),
    "adapter": ("adapter", PALETTE[2]),
}
"""How each role is called and drawn; `adapter` is one of peft's."""
Lines = Sequence[dict[str, Any]]
"""Lines of `metrics.jsonl`."""


def plot_loss(lines: Lines, top: float) -> Figure:
    """Draw the loss of a stage: each logged step and a running mean; ``top`` ends the axis."""
    figure, axes = _panel("loss, nats per response token")
    loss = np.array([float(line["loss"]) for line in lines])
    smooth, window = running_mean(loss)
    marker = "o" if len(loss) < 3 else None
    axes.plot(_steps(lines), loss, color=PALETTE[1], alpha=0.6, linewidth=1, label="each step")
    label = f"mean of {window}"
    axes.plot(_steps(lines), smooth, color=PALETTE[2], linewidth=2, marker=marker, label=label)
    axes.set_ylim(0, top)
    legend(axes)
    return figure


def plot_lr(lines: Lines) -> Figure:
    """Draw the learning rate of each role; roles of one rate share a line."""
    figure, axes = _panel("learning rate")
    curves: dict[tuple[float, ...], list[str]] = {}
    for role in lines[0]["lr"]:
        curves.setdefault(tuple(float(line["lr"][role]) for line in lines), []).append(role)
    for values, roles in curves.items():
        label = ", ".join(ROLES.get(role, (role, ""))[0] for role in roles)
        color = PALETTE[2] if len(roles) > 1 else _color(roles[0])
        axes.plot(_steps(lines), values, color=color, linewidth=1.8, label=label)
    begin_at_zero(axes)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.yaxis.get_offset_text().set(color=INK, fontsize=8)
    legend(axes)
    return figure


def plot_grad_norm(lines: Lines) -> Figure:
    """Draw the gradient's norm before clipping: each logged step and a running mean."""
    figure, axes = _panel("gradient norm, before clipping")
    norms = np.array([float(line["grad_norm"]) for line in lines])
    smooth, window = running_mean(norms)
    axes.plot(_steps(lines), norms, color=PALETTE[1], alpha=0.6, linewidth=1, label="each step")
    axes.plot(_steps(lines), smooth, color=PALETTE[2], linewidth=2, label=f"mean of {window}")
    begin_at_zero(axes)
    legend(axes)
    return figure


def plot_drift(lines: Lines, top: float) -> Figure:
    """Draw the mean absolute change of each role's parameters since the stage's start."""
    figure, axes = _panel("mean absolute change")
    lines = [line for line in lines if "drift" in line]
    for role in lines[0]["drift"]:
        values = [float(line["drift"][role]) for line in lines]
        label = ROLES.get(role, (role, ""))[0]
        axes.plot(_steps(lines), values, color=_color(role), linewidth=2, label=label)
    axes.set_ylim(0, top)
    legend(axes)
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


def _panel(ylabel: str) -> tuple[Figure, Axes]:
    return panel("optimizer step", ylabel, counts_x=True)


def _steps(lines: Lines) -> np.ndarray:
    return np.array([int(line["step"]) + 1 for line in lines])


def _color(role: str) -> str:
    return ROLES.get(role, ("", PALETTE[2]))[1]
