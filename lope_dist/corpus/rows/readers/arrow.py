"""Parquet and Arrow files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lope_dist.corpus.rows.readers.base import NumberedRows, Select
from lope_dist.corpus.rows.turns import RowError

_BATCH = 512


def read_parquet(path: Path, select: Select) -> NumberedRows:
    """Yield the rows of a Parquet file; at most a row group is in memory."""
    # Reading ahead keeps what it has read, and each thread an allocator's cache: neither is flat.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        columns = select(file.schema_arrow.names)
        batches = file.iter_batches(_BATCH, columns=columns, use_threads=False)
        yield from enumerate(_rows(batches), start=1)


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
            batch.slice(at, _BATCH).select(columns)
            for batch in batches
            for at in range(0, batch.num_rows, _BATCH)
        )
        yield from enumerate(_rows(parts), start=1)


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Any]:
    for batch in batches:
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            yield from (_row(batch.slice(i, 1)) for i in range(batch.num_rows))


def _row(batch: pa.RecordBatch) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return RowError("not valid UTF-8", "not valid UTF-8")
