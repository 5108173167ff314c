"""Rows written in each form that the readers know."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

ROW_OF_FORMAT = {
    "alpaca": {"instruction": "q", "input": "c", "output": "a"},
    "messages": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "prompt": {"prompt": "q", "completion": "a"},
    "text": {"text": "a"},
}
"""A row of each text format; all of them say the same."""

LINE_SUFFIXES = [
    f"{kind}{codec}" for kind in (".jsonl", ".json", ".csv") for codec in ("", ".gz", ".zst")
]
TABLE_SUFFIXES = [".parquet", ".arrow", ".arrows"]
"""`.arrows` stands for a folder as `datasets` saves it."""


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes, compressed as the suffix says."""
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    elif path.suffix == ".bz2":
        content = bz2.compress(content)
    path.write_bytes(content)
    return path


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as the suffix says and return what `data.path` should name."""
    kind = path.suffixes[0]
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=1000)
    elif kind == ".arrow":
        table = pa.Table.from_pylist(list(rows))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    elif kind == ".arrows":
        datasets.Dataset.from_list(list(rows)).save_to_disk(path, num_shards=min(2, len(rows)))
    elif kind == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(path, text.getvalue().encode())
    elif kind == ".json":
        write_bytes(path, json.dumps(list(rows), indent=1).encode())
    else:
        assert kind == ".jsonl", kind
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        write_bytes(path, lines.encode() + b"\n\n")
    return path
