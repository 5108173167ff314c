"""Parquet and Arrow files, batch by batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lope_dist.corpus.rows.readers.base import NumberedRows, Select
from lope_dist.corpus.rows.readers.json_values import parse_line
from lope_dist.corpus.rows.turns import RowError

BATCH = 512
"""Rows that are in memory at once."""


def read_parquet(path: Path, select: Select) -> NumberedRows:
    """Yield the rows of a Parquet file; at most a row group is in memory."""
    # Reading ahead keeps what it has read, and each thread an allocator's cache: neither is flat.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        columns = select(file.schema_arrow.names)
        batches = file.iter_batches(BATCH, columns=columns, use_threads=False)
        yield from enumerate(rows_of(batches), start=1)


def read_arrow(path: Path, select: Select) -> NumberedRows:
    """Yield the rows of an Arrow IPC file or stream; at most a batch of it is in memory."""
    with pa.OSFile(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        batches: Iterator[pa.RecordBatch]
        if is_file:
            opened = pa.ipc.open_file(file)
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            opened = pa.ipc.open_stream(file)
            batches = iter(opened)
        columns = select(opened.schema.names)
        parts = (
            batch.slice(at, BATCH).select(columns)
            for batch in batches
            for at in range(0, batch.num_rows, BATCH)
        )
        yield from enumerate(rows_of(parts), start=1)


def rows_of(batches: Iterator[pa.RecordBatch] | Iterator[pa.Table]) -> Iterator[Any]:
    """Yield each row, or the `RowError` that explains it, as the JSON had it that it was made of.

    Values of Arrow's type JSON are parsed. A struct has a null for each member that others of its
    type have and it has not; these are left out. A null inside a JSON text stays.
    """
    for batch in batches:
        changes = _changes(batch.schema, parse_line)
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
        yield from (_changed(row, changes) for row in rows) if changes else rows


def stored(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Return a row of `rows_of` as Arrow takes it: values of its type JSON are text."""
    return row | {name: change(row[name]) for name, change in _changes(schema, json.dumps).items()}


def _row(batch: pa.RecordBatch | pa.Table) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return RowError("not valid UTF-8", "not valid UTF-8")


_Change = Callable[[Any], Any]


def _changes(schema: pa.Schema, of_json: _Change) -> dict[str, _Change]:
    changes = {field.name: _change(field.type, of_json) for field in schema}
    return {name: change for name, change in changes.items() if change is not None}


def _changed(row: Any, changes: dict[str, _Change]) -> Any:
    if isinstance(row, RowError):
        return row
    try:
        return row | {name: change(row[name]) for name, change in changes.items()}
    except RowError as error:
        return error


def _change(kind: pa.DataType, of_json: _Change) -> _Change | None:
    """Return what is done to the values of a type; None: nothing."""
    if isinstance(kind, pa.JsonType):
        return lambda value: None if value is None else of_json(value)
    if isinstance(kind, pa.StructType):
        members = _changes(pa.schema(kind.fields), of_json)
        return lambda value: value and _present(value, members)
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        item = _change(kind.value_type, of_json)
        return None if item is None else lambda value: value and [item(each) for each in value]
    return None


def _present(struct: dict[str, Any], changes: dict[str, _Change]) -> dict[str, Any]:
    """Return the members that a struct has, changed."""
    return {
        name: changes[name](value) if name in changes else value
        for name, value in struct.items()
        if value is not None
    }
