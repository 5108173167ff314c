"""What was done to each row of a data set, as `lope corpus corrupt` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.corrupt import COLUMN
from lope_dist.corpus.readers import find_rows

Truth = Sequence[Mapping[str, Any]]
"""What was done to a row: `operation`, `field`, `count` each; nothing to a clean one."""


def read_truth(data: str, given: str | None, num_rows: int) -> list[Truth] | None:
    """Return what was done to each row; None if no file was given and the data do not say so.

    Args:
        data: The rows that are asked about.
        given: A file whose column `noise` speaks of the same rows in the same order.
        num_rows: Rows of the data.

    Raises:
        LopeError: the file given has no such column, another number of rows, or entries of
            another form.
    """
    path = given or data
    rows = [row for file in find_rows(SourceConfig(path=path)) for _, row in file.read(list)]
    if not all(isinstance(row, dict) and COLUMN in row for row in rows):
        if given is None:
            return None
        raise LopeError(
            f"--truth {path} has no column '{COLUMN}' in every row, as `lope corpus corrupt` "
            "writes it."
        )
    if len(rows) != num_rows:
        raise LopeError(
            f"--truth {path} has {len(rows)} rows and {data} {num_rows}; rows of the same "
            "number must be the same example."
        )
    return [_entries(row[COLUMN], f"{path}, row {n}") for n, row in enumerate(rows, start=1)]


def _entries(value: Any, place: str) -> Truth:
    try:
        entries = json.loads(value) if isinstance(value, str) else value
        return [{key: entry[key] for key in ("operation", "field", "count")} for entry in entries]
    except (ValueError, TypeError, KeyError):
        raise LopeError(
            f"{place}: the column '{COLUMN}' must be a list of operation, field and count, as "
            "`lope corpus corrupt` writes it."
        ) from None
