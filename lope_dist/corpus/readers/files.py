"""A local file of examples, read by its suffix."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lope_dist.core.errors import LopeError
from lope_dist.corpus.bad_rows import RowError
from lope_dist.corpus.readers.arrow import read_arrow, read_parquet
from lope_dist.corpus.readers.base import NumberedRows, Select
from lope_dist.corpus.readers.json_list import read_json_list
from lope_dist.corpus.readers.lines import CODECS, read_csv, read_jsonl, read_text

_SAMPLE = 64 << 10


class _Kind(NamedTuple):
    name: str
    read: Callable[[Path, Select], NumberedRows]
    unit: str


_LINES = {
    ".json": _Kind("JSON", read_json_list, "row"),
    ".jsonl": _Kind("JSON Lines", read_jsonl, "line"),
    ".csv": _Kind("CSV", read_csv, "line"),
    ".txt": _Kind("text", read_text, "line"),
}
_KINDS = (
    _LINES
    | {suffix + codec: kind for suffix, kind in _LINES.items() for codec in CODECS}
    | {
        ".parquet": _Kind("Parquet", read_parquet, "row"),
        ".arrow": _Kind("Arrow", read_arrow, "row"),
    }
)
ALLOWED = f"{', '.join(_LINES)}, each also with {' or '.join(CODECS)}, .parquet, .arrow"
"""The suffixes, for errors."""


def has_known_suffix(path: Path) -> bool:
    """Return whether a file's name says how to read it."""
    return _suffix(path) in _KINDS


@dataclass(frozen=True)
class FileRows:
    """The rows of one file.

    Raises:
        LopeError: a suffix that no reader has.
    """

    path: Path

    def __post_init__(self) -> None:
        if not has_known_suffix(self.path):
            raise LopeError(
                f"data.path: {self.path} has the suffix '{_suffix(self.path)}'; allowed: {ALLOWED}."
            )

    def identity(self) -> list[Any]:
        """Return place, size, time of the last change and a hash of both ends."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                digest.update(file.read(_SAMPLE))
                file.seek(max(0, status.st_size - _SAMPLE))
                digest.update(file.read(_SAMPLE))
        except OSError as error:
            raise self._unreadable(error) from None
        where = [str(self.path), str(self.path.absolute())]
        return [*where, status.st_size, status.st_mtime_ns, digest.hexdigest()]

    def read(self, select: Select) -> NumberedRows:
        """Yield all rows in order."""
        kind = _KINDS[_suffix(self.path)]
        try:
            yield from kind.read(self.path, select)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from None
        except RowError as error:  # of the columns, not of a row
            raise LopeError(f"{self.path}: {error}.") from None

    def place(self, number: int) -> str:
        """Return file and line or row."""
        return f"{self.path}, {_KINDS[_suffix(self.path)].unit} {number}"

    def _unreadable(self, error: Exception) -> LopeError:
        if isinstance(error, OSError) and error.strerror:
            return LopeError(f"{self.path} cannot be read: {error.strerror}.")
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        name = _KINDS[_suffix(self.path)].name
        return LopeError(f"{self.path} is not a readable {name} file: {reason}.")


def _suffix(path: Path) -> str:
    """Return `.jsonl`, or `.jsonl.gz` where it is compressed."""
    return "".join(path.suffixes[-2:]) if path.suffix in CODECS else path.suffix
