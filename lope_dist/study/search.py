"""Which setting of a `search` is trained on, and which row stands for a run: by the runs so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from lope_dist.study.cells import Cell, Study
from lope_dist.study.changes import changes_of, diverged
from lope_dist.study.observe import losses_of
from lope_dist.study.records import recorded_inputs


class Best(NamedTuple):
    """The row that stands for a run, and its loss on `choose_on`."""

    row: str
    loss: float


def with_settings(study: Study) -> Study:
    """Return the study with the setting of each group all of whose tries are measured.

    A try that diverged is measured: no loss is higher.
    """
    tried = {
        group: {cell.group.setting: _loss_of(study, cell) for cell in cells}
        for group, cells in tries_of(study).items()
    }
    settings = {group: best for group, losses in tried.items() if (best := _best(losses))}
    return replace(study, settings=settings)


def tries_of(study: Study) -> dict[str, list[Cell]]:
    """Return the tries of each group that has a search of its own."""
    tries: dict[str, list[Cell]] = {}
    for cell in study.tries:
        tries.setdefault(replace(cell.group, setting=()).name, []).append(cell)
    return tries


def all_diverged(study: Study) -> dict[str, str]:
    """Return the groups that get no setting, as every try of their search diverged: a sentence."""
    tries = tries_of(study)
    return {
        name: f"every try of its search diverged; give variants.{group.variant}.search others"
        for name in study.searched
        for group in [study.searched_as(study.groups[name])]
        if all(map(diverged, tries[group.name]))
    }


def _loss_of(study: Study, cell: Cell) -> float | None:
    """Return the loss that a try is chosen by; None until it is known."""
    best = best_row(study, cell)
    if best is None:
        return math.inf if diverged(cell) else None
    return best.loss


def _best(tries: Mapping[tuple[str, ...], float | None]) -> tuple[str, ...] | None:
    losses = {setting: loss for setting, loss in tries.items() if loss is not None}
    if len(losses) < len(tries) or min(losses.values()) == math.inf:
        return None
    return min(losses, key=losses.__getitem__)


def best_row(study: Study, cell: Cell) -> Best | None:
    """Return of the rows that a cell may answer with the one with the lowest loss on `choose_on`.

    Returns:
        None until all of them are measured, and of a run that differs from its cell.
    """
    if recorded_inputs(cell, "train") is None or changes_of(cell):
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
