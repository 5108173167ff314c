"""A run's JSON files: whole or absent, and logs of one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lope_dist.core.errors import LopeError
from lope_dist.core.files import check_regular, open_nofollow, write_atomic


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value; NaN and infinity are refused, for they are not JSON."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        LopeError: the file is absent or not JSON.
    """
    try:
        check_regular(path)
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise LopeError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise LopeError(f"{path} is not readable JSON: {error}.") from None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that `write_json` could have written.

    Raises:
        ValueError: it is none, or beyond what Python reads: NaN, text that is no UTF-8, nesting
            without end.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a JSONL file and flush it."""
    with open_nofollow(path, "a") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file; a torn last line (a killed run) ends it.

    Raises:
        LopeError: another line is not a record.
    """
    for number, line in log_entries(path):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise LopeError(f"{path}, line {number} is not JSON: {error}.") from None
        if not isinstance(record, dict):
            raise LopeError(f"{path}, line {number} is not a record of names and values.")
        yield record


def log_entries(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and text of a log's lines, but for a last one that is torn.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    check_regular(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield number, line


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
