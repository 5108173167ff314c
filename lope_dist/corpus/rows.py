"""Readers with random access to the rows of one file or hub data set.

A reader raises ``ValueError`` with the reason for a bad row; `records` adds the place.
JSON Lines stay in the file, which is memory-mapped; a hub data set is an Arrow memory map.
"""

from __future__ import annotations

import json
import mmap
from array import array
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lope_dist.core.errors import LopeError

_COLUMNS = ("instruction", "input", "output", "messages")


class Rows(Protocol):
    """Rows of one file."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> Any:
        """Return one row; raises ``ValueError`` with the reason if it cannot be decoded."""
        ...

    def place(self, index: int) -> str:
        """Return where a row stands, as an error names it."""
        ...


class JsonLines:
    """A `.jsonl` file; blank lines are not rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts, self._numbers = array("Q"), array("Q")
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._starts.append(start)
                    self._numbers.append(number)
                start += len(line)
            # An empty file cannot be mapped.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if start else b""

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, index: int) -> Any:
        """Return one line's object."""
        start = self._starts[index]
        end = self._map.find(b"\n", start)
        return _parse_json(self._map[start : end if end >= 0 else len(self._map)])

    def place(self, index: int) -> str:
        """Return file and line."""
        return f"{self._path}, line {self._numbers[index]}"


class JsonList:
    """A `.json` file with one list of objects."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            rows = _parse_json(path.read_bytes())
        except ValueError as error:
            raise LopeError(
                f"{path}: {error}; a .json file holds one list of objects "
                "(a file with an object in each line must be named .jsonl)."
            ) from None
        if not isinstance(rows, list):
            raise LopeError(f"{path} must hold a list of objects, not {type(rows).__name__}.")
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Any:
        """Return one item."""
        return self._rows[index]

    def place(self, index: int) -> str:
        """Return file and row."""
        return f"{self._path}, row {index + 1}"


class Parquet:
    """The columns that either format knows of a `.parquet` file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            names = pq.read_schema(path).names
            known = [name for name in _COLUMNS if name in names]
            self._table = pq.read_table(path, columns=known or names, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise LopeError(f"{path} is not a readable Parquet file: {reason}.") from None
        self._columns = dict(zip(self._table.column_names, self._table.columns, strict=True))

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict[str, Any]:
        """Return one row."""
        try:
            return {name: column[index].as_py() for name, column in self._columns.items()}
        except UnicodeDecodeError:
            raise ValueError("not valid UTF-8") from None

    def place(self, index: int) -> str:
        """Return file and row."""
        return f"{self._path}, row {index + 1}"


class HubDataset:
    """One split of a data set of the hub."""

    def __init__(self, name: str, split: str) -> None:
        import datasets  # slow to import, and files do not need it

        self._place = f"Data set '{name}', split '{split}'"
        try:
            self._rows = datasets.load_dataset(name, split=split)
        except Exception as error:  # whatever the hub client raises: it is the user's to mend
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise LopeError(
                f"data.path = {name!r} is no local file and could not be loaded from the hub "
                f"(split '{split}'): {reason}."
            ) from None

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Any:
        """Return one row."""
        return self._rows[index]

    def place(self, index: int) -> str:
        """Return data set, split and row."""
        return f"{self._place}, row {index + 1}"


READERS = {".json": JsonList, ".jsonl": JsonLines, ".parquet": Parquet}
"""File suffix -> reader."""


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 (byte {error.start + 1} of it)") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not valid JSON: {error.msg} ({where} of it)") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None
