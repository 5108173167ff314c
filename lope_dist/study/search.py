"""Which setting of a variant's `search` is trained on with all seeds, found in the runs so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lope_dist.study.cells import Cell, Study
from lope_dist.study.observe import losses_of
from lope_dist.study.steps import recorded_inputs


def with_settings(study: Study) -> Study:
    """Return the study with the setting of each group all of whose tries are measured."""
    tried: dict[str, dict[tuple[str, ...], float | None]] = {}
    for cell in study.tries:
        group = replace(cell.group, setting=()).name
        tried.setdefault(group, {})[cell.group.setting] = _loss(study, cell)
    settings = {group: best for group, losses in tried.items() if (best := _best(losses))}
    return replace(study, settings=settings)


def _best(losses: Mapping[tuple[str, ...], float | None]) -> tuple[str, ...] | None:
    measured = {setting: loss for setting, loss in losses.items() if loss is not None}
    return min(measured, key=measured.__getitem__) if len(measured) == len(losses) else None


def _loss(study: Study, cell: Cell) -> float | None:
    """Return the lowest loss on `choose_on` of the rows that the variant may answer with."""
    if recorded_inputs(cell, "train") is None:
        return None
    variant = study.config.variants[cell.group.variant]
    rows = variant.choose_from or variant.rows[:1]
    losses = {
        row: seen.value
        for row, metric, seen in losses_of(study, cell)
        if metric == study.config.choose_on and row in rows
    }
    return min(losses.values()) if len(losses) == len(rows) else None
