"""A run's JSON files: whole or absent, and logs of one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value; NaN and infinity are refused, for they are not JSON."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        LopeError: the file is absent or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LopeError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise LopeError(f"{path} is not readable JSON: {error}.") from None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a JSONL file and flush it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file; a torn last line (a killed run) ends it."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)
