"""One shard: a range of consecutive examples of one view, as an Arrow file.

A row is an example. Rows stand in record batches of `ROWS_OF_A_BATCH`, so that a row is
found by arithmetic and a memory-mapped file is read only where a row is asked for. The
bytes are a pure function of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lope_dist.core.blocks import BlockCheck, BlockHasher, DamagedBlock
from lope_dist.core.errors import LopeError, first_line
from lope_dist.core.files import whole_file
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized
from lope_dist.corpus.tokens.views import Row

ROWS_OF_A_BATCH = 256
_TOKENS = pa.list_(pa.int32())


class Written(NamedTuple):
    """What a shard's file is known by."""

    bytes: int
    """Its size."""
    sha256: str
    blocks: tuple[str, ...]
    """Hashes of its blocks."""


@dataclass
class Counts:
    """What a shard, or a view, holds."""

    examples: int = 0
    tokens: int = 0
    """Tokens that a model reads; with an encoder-decoder also those that it writes."""
    target_tokens: int = 0
    """Tokens that a loss is taken of."""
    cut: int = 0
    """Examples longer than `data.max_length`."""
    hits: dict[str, int] = field(default_factory=dict)
    """Noise operation -> units that it hit."""

    def add(self, other: Counts) -> None:
        """Add another part's counts."""
        self.examples += other.examples
        self.tokens += other.tokens
        self.target_tokens += other.target_tokens
        self.cut += other.cut
        self.hits = dict(sorted((Counter(self.hits) + Counter(other.hits)).items()))


def write_shard(
    path: Path,
    batches: Iterable[Sequence[Row]],
    *,
    is_encoder_decoder: bool,
    has_marks: bool = False,
) -> tuple[Counts, Written]:
    """Write a shard; return its counts, and what its file is known by.

    The file is whole or not there. Memory is that of one batch.

    Args:
        path: Where the shard will stand.
        batches: `ROWS_OF_A_BATCH` rows each; only the last may have fewer.
        is_encoder_decoder: Labels are tokens of their own, not a part of the input.
        has_marks: Rows tell which tokens noise changed.
    """
    counts = Counts()
    schema = _schema(is_encoder_decoder, has_marks)
    with whole_file(path) as file:
        sink = _Hashing(file)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
            for rows in batches:
                columns = _columns(rows, is_encoder_decoder, has_marks)
                writer.write_batch(pa.record_batch(columns, schema=schema))
                counts.add(_count(rows, is_encoder_decoder))
    return counts, Written(sink.size, sink.digest.hexdigest(), tuple(sink.blocks.finish()))


class Shard:
    """A shard's rows, from a memory map.

    Args:
        path: The file.
        blocks: Hashes of its blocks, as they were written. Without them the caller has hashed it.
        unchecked: See `BlockCheck`.

    Raises:
        LopeError: no such file, or no shard; then and later, a block that was changed.
    """

    def __init__(
        self, path: Path, blocks: Sequence[str] = (), unchecked: bytearray | None = None
    ) -> None:
        self._path = path
        self._blocks: BlockCheck | None = None
        try:
            mapped = pa.memory_map(str(path)).read_buffer()
            self._address, view = mapped.address, memoryview(mapped)
            if blocks:
                self._blocks = BlockCheck(
                    path.name, len(view), blocks, lambda a, count: view[a : a + count], unchecked
                )
            self._reader = pa.ipc.open_file(pa.BufferReader(mapped))
        except FileNotFoundError:
            raise LopeError(
                f"{path} is missing; the command that built it makes it anew."
            ) from None
        except (pa.ArrowException, OSError, DamagedBlock) as error:
            raise self._unreadable(error) from None
        self._has_labels = "labels" in self._reader.schema.names

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """Return the rows at positions that are counted from the shard's start.

        Raises:
            LopeError: the file is damaged.
        """
        rows_by_position = {}
        by_batch = sorted(set(positions))
        try:
            for number, group in groupby(by_batch, key=lambda at: at // ROWS_OF_A_BATCH):
                batch = self._reader.get_batch(number)
                self._check(batch)
                for position in group:
                    row = batch.slice(position % ROWS_OF_A_BATCH, 1)
                    rows_by_position[position] = self._row(row)
        except (pa.ArrowException, OSError, IndexError, KeyError, DamagedBlock) as error:
            raise self._unreadable(error) from None
        return [rows_by_position[position] for position in positions]

    def _check(self, batch: pa.RecordBatch) -> None:
        """Hash the blocks in which a batch stands."""
        if self._blocks is None:
            return
        buffers = [b for column in batch.columns for b in column.buffers() if b is not None]
        first = min(b.address for b in buffers) - self._address
        last = max(b.address + b.size for b in buffers) - self._address
        self._blocks.of_range(first, last)

    def _row(self, row: pa.RecordBatch) -> Row:
        values: dict[str, Any] = {n: row.column(n)[0].as_py() for n in row.schema.names}
        input_ids = values["input_ids"]
        labels = values["labels"] if self._has_labels else _labels(input_ids, values["targets"])
        corrupted = None
        if "corrupted" in values:
            of_input = _bools(values["corrupted"], len(input_ids))
            is_apart = "corrupted_labels" in values
            corrupted = (
                of_input,
                _bools(values["corrupted_labels"], len(labels)) if is_apart else of_input,
            )
        tokens = Tokenized(values["example_id"], input_ids, labels, values["was_cut"], corrupted)
        return Row(tokens, dict(values["hits"]))

    def _unreadable(self, error: Exception) -> LopeError:
        reason = first_line(error)
        if isinstance(error, DamagedBlock):
            return not_as_built(self._path, reason)
        return LopeError(
            f"{self._path} is not a readable shard ({reason}); remove it and build again."
        )


def not_as_built(path: Path, reason: str) -> LopeError:
    """Return the error of a shard that differs from what was built."""
    return LopeError(
        f"{path} is not what was built ({reason}); run the same build again, which makes it anew."
    )


class _Hashing:
    """A file that knows the hashes of what was written to it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest, self.blocks = hashlib.sha256(), BlockHasher()
        self.size, self.closed = 0, False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.blocks.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True


def _schema(is_encoder_decoder: bool, has_marks: bool) -> pa.Schema:
    marks = ["corrupted", *(["corrupted_labels"] if is_encoder_decoder else [])]
    labels = pa.field("labels" if is_encoder_decoder else "targets", _TOKENS)
    return pa.schema(
        [
            ("example_id", pa.int64()),
            ("input_ids", _TOKENS),
            labels,
            ("was_cut", pa.bool_()),
            ("hits", pa.map_(pa.string(), pa.int32())),
            *((name, _TOKENS) for name in marks if has_marks),
        ]
    )


def _columns(rows: Sequence[Row], is_encoder_decoder: bool, has_marks: bool) -> list[pa.Array]:
    tokens = [row.tokens for row in rows]
    labels = [t.labels if is_encoder_decoder else _target_spans(t.labels) for t in tokens]
    streams = range(2 if is_encoder_decoder else 1) if has_marks else ()
    return [
        pa.array([t.example_id for t in tokens], pa.int64()),
        pa.array([t.input_ids for t in tokens], _TOKENS),
        pa.array(labels, _TOKENS),
        pa.array([t.was_cut for t in tokens], pa.bool_()),
        pa.array([sorted(row.hits.items()) for row in rows], pa.map_(pa.string(), pa.int32())),
        *(
            pa.array([_spans(t.corrupted[i] if t.corrupted else []) for t in tokens], _TOKENS)
            for i in streams
        ),
    ]


def _target_spans(labels: Sequence[int]) -> list[int]:
    return _spans([label != IGNORED for label in labels])


def _spans(is_in: Sequence[bool]) -> list[int]:
    """Return start and end of each run of true values, one after the other."""
    padded = [False, *is_in, False]
    return [i for i in range(len(is_in) + 1) if padded[i] != padded[i + 1]]


def _bools(spans: Sequence[int], length: int) -> list[bool]:
    is_in = [False] * length
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        is_in[start:end] = [True] * (end - start)
    return is_in


def _labels(input_ids: Sequence[int], spans: Sequence[int]) -> list[int]:
    labels = [IGNORED] * len(input_ids)
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        labels[start:end] = input_ids[start:end]
    return labels


def _count(rows: Sequence[Row], is_encoder_decoder: bool) -> Counts:
    counts = Counts(examples=len(rows))
    hits: Counter[str] = Counter()
    for row in rows:
        tokens = row.tokens
        # What a decoder-only model's first token is, nothing before it predicts.
        targets = tokens.labels if is_encoder_decoder else tokens.labels[1:]
        counts.tokens += len(tokens.input_ids) + len(tokens.labels) * is_encoder_decoder
        counts.target_tokens += len(targets) - targets.count(IGNORED)
        counts.cut += tokens.was_cut
        hits.update(row.hits)
    counts.hits = dict(sorted(hits.items()))
    return counts
