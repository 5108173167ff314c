"""A local file of examples, read by its suffix."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lope_dist.core.errors import LopeError, first_line
from lope_dist.corpus.rows.readers.arrow import read_arrow, read_parquet
from lope_dist.corpus.rows.readers.base import NumberedRows, Select
from lope_dist.corpus.rows.readers.json_values import read_json_list
from lope_dist.corpus.rows.readers.lines import holds_lines, read_jsonl, read_text
from lope_dist.corpus.rows.readers.streams import CODECS, packed_suffixes
from lope_dist.corpus.rows.readers.tables import read_csv, read_tsv
from lope_dist.corpus.rows.turns import RowError

_SAMPLE = 64 << 10


class _Kind(NamedTuple):
    name: str
    read: Callable[[Path, Select], NumberedRows]
    unit: str


_JSON_LINES = _Kind("JSON Lines", read_jsonl, "line")
_TEXTS = {
    ".json": _Kind("JSON", read_json_list, "row"),
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".csv": _Kind("CSV", read_csv, "line"),
    ".tsv": _Kind("TSV", read_tsv, "line"),
    ".txt": _Kind("text", read_text, "line"),
}
_TABLES = {
    ".parquet": _Kind("Parquet", read_parquet, "row"),
    ".arrow": _Kind("Arrow", read_arrow, "row"),
}
ALLOWED = f"{', '.join(_TEXTS)}, each also with {', '.join(CODECS)} behind; {', '.join(_TABLES)}"
"""The suffixes, in small letters or capitals, for errors."""


def has_known_suffix(path: Path) -> bool:
    """Return whether a file's name says how to read it."""
    suffix, compression = _suffixes(path)
    return suffix in _TEXTS or (suffix in _TABLES and not compression)


@dataclass(frozen=True)
class FileRows:
    """The rows of one file.

    Raises:
        LopeError: a suffix that no reader has.
    """

    path: Path
    note: str = ""
    """A note for the user about how the file was chosen."""

    def __post_init__(self) -> None:
        if not has_known_suffix(self.path):
            raise LopeError(
                f"data.path: {self.path} has the suffix '{''.join(_suffixes(self.path))}'; "
                f"allowed: {ALLOWED}."
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
        try:
            yield from self._kind.read(self.path, select)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from None
        except RowError as error:  # of the columns, not of a row
            raise LopeError(f"{self.path}: {error}.") from None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def location(self, number: int) -> str:
        """Return file and line or row."""
        return f"{self.path}, {self._kind.unit} {number}"

    @cached_property
    def _kind(self) -> _Kind:
        """How the file is read; a `.json` file may hold an object in each line."""
        kind = self._kind_by_name()
        return _JSON_LINES if kind is _TEXTS[".json"] and holds_lines(self.path) else kind

    def _kind_by_name(self) -> _Kind:
        return (_TEXTS | _TABLES)[_suffixes(self.path)[0]]

    def _unreadable(self, error: Exception) -> LopeError:
        if isinstance(error, OSError) and error.strerror:
            return LopeError(f"{self.path} cannot be read: {error.strerror}.")
        name = self._kind_by_name().name
        return LopeError(f"{self.path} is not a readable {name} file: {first_line(error)}.")


def _suffixes(path: Path) -> tuple[str, str]:
    """Return a file's own suffix in small letters, and those of its compression behind it."""
    compression = packed_suffixes(path)
    suffixes = path.suffixes[: len(path.suffixes) - len(compression)]
    return (suffixes[-1].lower() if suffixes else ""), "".join(compression)
