"""Files that are either complete or not there, and the folder for those that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for files that can be made again (`$XDG_CACHE_HOME/lope_dist`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lope_dist"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside ``path``, sync and rename, so that nobody ever reads a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
