"""Curves over a whole run: the loss on validation rows, speed and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lope_dist.report.style import MUTED, PALETTE, POISON, SIZE, begin_at_zero, legend, panel

_ROWS = {"base": PALETTE[0], "masked": PALETTE[2], "masked_plain": PALETTE[1], "all": PALETTE[3]}
_OTHERS = (PALETTE[2], *PALETTE[4:])
"""Of stages that are not the poisoning one: colours unlike its own."""
Stages = Mapping[str, Sequence[dict[str, Any]]]
"""Lines of `metrics.jsonl`, by stage."""


def plot_validation(stages: Stages) -> Figure:
    """Draw the loss on the validation rows over the steps of all stages, a curve for each row."""
    figure, axes = panel(
        "optimizer step, over all stages",
        "nats per response token",
        size=(SIZE[0] * 1.6, SIZE[1]),
        counts_x=True,
    )
    curves: dict[str, list[tuple[int, float]]] = {}
    before = 0
    for number, lines in enumerate(stages.values()):
        if number:
            axes.axvline(before, color=MUTED, linewidth=0.8, linestyle=":")
        last = before
        for line in lines:
            last = before + int(line["step"]) + 1
            for row, loss in line["validation"].items():
                curves.setdefault(row, []).append((last, float(loss)))
        before = last
    for number, (row, points) in enumerate(curves.items()):
        color = _ROWS.get(row, PALETTE[(number + 4) % len(PALETTE)])
        marker = "o" if len(points) < 12 else None
        axes.plot(*zip(*points, strict=True), color=color, linewidth=2, marker=marker,
                  markersize=4, label=row)  # fmt: skip
    legend(axes)
    return figure


def plot_over_time(stages: Stages, key: str, label: str, scale: float = 1.0) -> Figure:
    """Draw a figure of the logged steps over the minutes since the first of them."""
    figure, axes = panel("minutes since the first step", label)
    start = min(float(line["time"]) for lines in stages.values() for line in lines)
    for number, (stage, lines) in enumerate(stages.items()):
        logged = [line for line in lines if key in line]
        minutes = [(float(line["time"]) - start) / 60 for line in logged]
        color = POISON if stage == "poison" else _OTHERS[number % len(_OTHERS)]
        marker = "o" if len(logged) < 3 else None
        axes.plot(minutes, [scale * float(line[key]) for line in logged], color=color,
                  linewidth=1.5, marker=marker, label=stage)  # fmt: skip
    begin_at_zero(axes)
    legend(axes)
    return figure
