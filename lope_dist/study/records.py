"""What is recorded in a run's folder of each of a cell's steps that ended well."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from lope_dist.core.side_files import SideFile
from lope_dist.study.cells import Cell

RECORDS = "study"
"""Folder in a run's folder: logs and records of its steps."""


class Record(TypedDict):
    """What a step's file holds."""

    inputs: dict[str, Any]
    seconds: NotRequired[float]


def record_of(cell: Cell, step: str) -> Record | None:
    """Return what is recorded of a cell's step; None: it never ended well."""
    record = cell.folder / RECORDS / f"{step}.json"
    return SideFile(record.name, Record).read(record.parent)


def recorded_inputs(cell: Cell, step: str) -> dict[str, Any] | None:
    """Return the inputs with which a step of a cell last ended well; None: it never did."""
    record = record_of(cell, step)
    return None if record is None else record["inputs"]
