"""What was done to each row of a data set, as `lope corpus corrupt` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.corrupt import COLUMN
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.rows.readers import find_rows

Truth = Sequence[Mapping[str, Any]]
"""What was done to a row: `operation`, `field`, `count` each; nothing to a clean one."""


def read_truth(data: str, truth_file: str | None, source: ExampleSource) -> list[Truth] | None:
    """Return what was done to the row of each example; None if neither file says so.

    Args:
        data: The rows that are asked about.
        truth_file: A file whose column `noise` speaks of the same rows in the same order.
        source: What ``data`` was opened as.

    Raises:
        LopeError: the file given has no such column, another number of rows, or entries of
            another form.
    """
    rows = rows_of(data)
    truth_rows = rows_of(truth_file) if truth_file else rows
    if len(truth_rows) != len(rows):
        raise LopeError(
            f"--truth {truth_file} has {len(truth_rows)} rows and {data} {len(rows)}; rows of "
            "the same number must be the same example."
        )
    truth = {location: row for (location, _), (_, row) in zip(rows, truth_rows, strict=True)}
    rows_of_examples = [truth[source.location(i)] for i in range(len(source))]
    if not all(isinstance(row, dict) and COLUMN in row for row in rows_of_examples):
        if truth_file is None:
            return None
        raise LopeError(
            f"--truth {truth_file} has no column '{COLUMN}' in every row, as `lope corpus corrupt` "
            "writes it."
        )
    path = truth_file or data
    return [
        _entries(row[COLUMN], f"{path}, row {n}") for n, row in enumerate(rows_of_examples, start=1)
    ]


def rows_of(path: str) -> list[tuple[tuple[str, int], Any]]:
    """Return each row and where it stands, as `ExampleSource.location` says it.

    One that cannot be read is the `RowError` that explains it.
    """
    files = find_rows(SourceConfig(path=path))
    return [((file.name, number), row) for file in files for number, row in file.read(list)]


def _entries(value: Any, location: str) -> Truth:
    try:
        entries = json.loads(value) if isinstance(value, str) else value
        return [{key: entry[key] for key in ("operation", "field", "count")} for entry in entries]
    except (ValueError, TypeError, KeyError):
        raise LopeError(
            f"{location}: the column '{COLUMN}' must be a list of operation, field and count, as "
            "`lope corpus corrupt` writes it."
        ) from None
