"""Which setting of a `search` is trained on, and which row stands for a run: by the runs so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from lope_dist.study.cells import Cell, Study
from lope_dist.study.observe import losses_of
from lope_dist.study.records import recorded_inputs


class Best(NamedTuple):
    """The row that stands for a run, and its loss on `choose_on`."""

    row: str
    loss: float


def with_settings(study: Study) -> Study:
    """Return the study with the setting of each group all of whose tries are measured."""
    tried: dict[str, dict[tuple[str, ...], Best | None]] = {}
    for cell in study.tries:
        group = replace(cell.group, setting=()).name
        tried.setdefault(group, {})[cell.group.setting] = best_row(study, cell)
    settings = {group: best for group, of in tried.items() if (best := _best(of))}
    return replace(study, settings=settings)


def _best(tries: Mapping[tuple[str, ...], Best | None]) -> tuple[str, ...] | None:
    losses = {setting: best.loss for setting, best in tries.items() if best is not None}
    return min(losses, key=losses.__getitem__) if len(losses) == len(tries) else None


def best_row(study: Study, cell: Cell) -> Best | None:
    """Return of the rows that a cell may answer with the one with the lowest loss on `choose_on`.

    Returns:
        None until all of them are measured.
    """
    if recorded_inputs(cell, "train") is None:
        return None
    variant = study.config.variants[cell.group.variant]
    rows = variant.choose_from or variant.rows[:1]
    losses = {
        row: seen.value
        for row, metric, seen in losses_of(study, cell)
        if metric == study.config.choose_on and row in rows
    }
    if len(losses) < len(rows):
        return None
    row = min(rows, key=losses.__getitem__)
    return Best(row, losses[row])
