"""Files read by lines: JSON Lines, plain text and CSV, compressed or not.

A line ends at a line feed and nowhere else: U+2028 and its like are part of the text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from lope_dist.corpus.bad_rows import RowError
from lope_dist.corpus.readers.base import ROW_LIMIT, NumberedRows, Select

CODECS = {".gz": "gzip", ".zst": "zstd"}
"""Suffix behind a file's own -> how it is compressed."""
_BUFFER = 1 << 20


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed."""
    codec = CODECS.get(path.suffix)
    if codec is None:
        return path.open("rb", buffering=_BUFFER)
    stream = pa.CompressedInputStream(pa.OSFile(str(path)), codec)
    return io.BufferedReader(cast(Any, stream), _BUFFER)


def read_jsonl(path: Path, select: Select) -> NumberedRows:
    """Yield the object of each line that is not blank."""
    for number, line in _lines(path):
        if isinstance(line, RowError):
            yield number, line
        elif line.strip():
            try:
                yield number, _parse(line)
            except RowError as error:
                yield number, error


def read_text(path: Path, select: Select) -> NumberedRows:
    """Yield ``{"text": line}`` for each line that is not blank: a document a line."""
    for number, line in _lines(path):
        if isinstance(line, RowError):
            yield number, line
        elif line.strip():
            try:
                yield number, {"text": _decode(line).removesuffix("\n").removesuffix("\r")}
            except RowError as error:
                yield number, error


def read_csv(path: Path, select: Select) -> NumberedRows:
    """Yield a CSV file's rows by the names of its first line; cells are strings.

    A quoted cell may hold line breaks. The number of a row is that of its first line.
    """
    csv.field_size_limit(ROW_LIMIT)  # of the whole process, 128 KiB by default
    lines = _TextLines(path)
    rows = csv.reader(lines, strict=True)
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise RowError("not valid CSV", f"not valid CSV: {error}") from None
    if len(set(header)) < len(header):
        raise RowError("not valid CSV", f"two columns have one name: {', '.join(header)}")
    wanted = set(select(header)) if header else set()
    while True:
        number = lines.number + 1
        try:
            cells = next(rows, None)
            if cells is None:
                return
            if not cells:  # a blank line
                continue
            if len(cells) != len(header):
                raise RowError(
                    "wrong number of cells",
                    f"{len(cells)} cells under {len(header)} columns"
                    + (f" (up to line {lines.number})" if lines.number > number else ""),
                )
            named = dict(zip(header, cells, strict=True))
            yield number, {name: named[name] for name in header if name in wanted}
        except RowError as error:
            yield number, error
        except csv.Error as error:
            yield number, RowError("not valid CSV", f"not valid CSV: {error}")


class _TextLines:
    """A file's lines as text, for `csv`; a bad one raises `RowError`, and the next one follows.

    A generator could not go on behind an error.
    """

    def __init__(self, path: Path) -> None:
        self._lines = _lines(path)
        self.number = 0
        """Lines taken so far."""

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if isinstance(line, RowError):
            raise line
        return _decode(line)


def _lines(path: Path) -> Iterator[tuple[int, bytes | RowError]]:
    """Yield each line with its end and without a byte order mark."""
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(ROW_LIMIT + 1):
            number += 1
            if len(line) > ROW_LIMIT:
                while not line.endswith(b"\n") and (line := file.readline(_BUFFER)):
                    pass
                yield number, too_long()
            else:
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def too_long() -> RowError:
    """Return the error of a row that is longer than the limit."""
    return RowError("too long", f"longer than {ROW_LIMIT >> 20} MiB; cut or remove it")


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            "not valid UTF-8", f"not valid UTF-8 (byte {error.start + 1} of the line)"
        ) from None


def _parse(line: bytes) -> Any:
    try:
        return json.loads(_decode(line).rstrip("\r\n"))  # or the end is on another line
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        reason = "not valid JSON: nested too deeply"
    raise RowError("not valid JSON", reason)
