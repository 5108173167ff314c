"""A corrupted copy of a data set, with a column that says what was done to each row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lope_dist.config.data import DataConfig, SourceConfig
from lope_dist.config.noise import DataNoiseConfig, NoiseConfig
from lope_dist.core.bars import bar
from lope_dist.core.errors import LopeError, first_line
from lope_dist.core.files import write_atomic
from lope_dist.corpus.examples.source import Example, ExampleSource, open_source
from lope_dist.corpus.rows.layouts import Layout
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.readers.arrow import stored
from lope_dist.corpus.rows.writing import row_line
from lope_dist.corpus.tokens.views import field_at, with_noise
from lope_dist.noise.mix import DATA_NOISE, check_operations, example_keys

COLUMN = "noise"
_AT_ONCE = 2000


@dataclass(frozen=True)
class CorruptSummary:
    """What was written."""

    rows: int
    rows_hit: int
    hits: dict[str, int]
    """Operation -> words, characters or answers hit."""


def corrupt_file(
    source: Path,
    target: Path,
    config: DataNoiseConfig,
    seed: int,
    *,
    progress: bool = True,
) -> CorruptSummary:
    """Write the rows of a file with noise in them, and a column ``noise``.

    The column is a JSON list of ``{"operation", "field", "count"}``, in a conversation also
    ``"message"``; empty where the row was not hit. All other columns are kept. A row becomes
    what training on ``source`` with ``noise.data`` and the same seed would see.

    Raises:
        LopeError: the target exists or has a foreign suffix, the source has the column
            already, one that the target cannot hold or is not a data set, or an operation is
            unknown.
    """
    check_operations(NoiseConfig(data=config))
    if target.suffix.lower() not in (".jsonl", ".parquet"):
        raise LopeError(f"{target} has the suffix '{target.suffix}'; write .jsonl or .parquet.")
    if target.exists():
        raise LopeError(f"{target} exists already; remove it or give another name.")
    section = SourceConfig(path=str(source))
    examples = open_source(DataConfig(path=str(source), allow_empty_response=True))
    rows = [row for file in find_rows(section) for _, row in file.read(list)]
    if any(COLUMN in row for row in rows):
        raise LopeError(f"{source} has a column '{COLUMN}' already; rename or remove it.")
    if target.suffix.lower() == ".jsonl":
        _lines(rows, source)  # what cannot be written is told before the work
    counts: Counter[str] = Counter()
    rows_hit = 0
    layout = Layout(section, allow_empty_response=True)
    layout.parse(rows[0])  # finds the format
    with closing(bar("Corrupting", len(rows), "rows", is_shown=progress)) as progress_bar:
        for start in range(0, len(rows), _AT_ONCE):
            batch = [examples[i] for i in range(start, min(start + _AT_ONCE, len(rows)))]
            for example, changes in _corrupted(batch, examples, config, seed):
                row = layout.with_texts(rows[example.id], example.turns)
                rows[example.id] = row | {COLUMN: json.dumps(changes)}
                rows_hit += bool(changes)
                for entry in changes:
                    counts[entry["operation"]] += entry["count"]
            progress_bar.update(len(batch))
    _write(target, rows, pq.read_schema(source) if source.suffix.lower() == ".parquet" else None)
    return CorruptSummary(len(rows), rows_hit, dict(sorted(counts.items())))


def _corrupted(
    batch: list[Example], source: ExampleSource, config: DataNoiseConfig, seed: int
) -> Iterator[tuple[Example, list[dict[str, Any]]]]:
    """Yield each example with noise, and what was done to it."""
    keys = example_keys(seed, DATA_NOISE, 0, [example.id for example in batch])
    noisy, hits = with_noise(batch, source, config, keys)
    counts: list[Counter[tuple[int, str]]] = [Counter() for _ in batch]
    for number, slot, operation, num_hits in hits:
        counts[number][slot, operation] += num_hits
    for example, of_example in zip(noisy, counts, strict=True):
        entries = []
        for (slot, operation), num_hits in sorted(of_example.items()):
            turn, field = field_at(example, slot)
            entry = {"operation": operation, "field": field, "count": num_hits}
            entries.append(entry | ({"message": turn} if len(example.turns) != 2 else {}))
        yield example, entries


def _lines(rows: list[dict[str, Any]], path: Path) -> list[str]:
    return [row_line(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None) -> None:
    if path.suffix.lower() == ".jsonl":
        write_atomic(path, "".join(_lines(rows, path)))
        return
    if schema is not None:
        rows = [stored(row, schema) for row in rows]
        schema = schema.append(pa.field(COLUMN, pa.string()))
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    except pa.ArrowException as error:
        raise LopeError(
            f"{path}: these rows do not fit one table: {first_line(error)}; write .jsonl."
        ) from None
    write_atomic(path, sink.getvalue().to_pybytes())
