"""Files that are either complete or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lope_dist.core.errors import LopeError


@contextmanager
def telling_disk_errors(what: str | Path) -> Iterator[None]:
    """Context in which a failure to write is told in one sentence.

    Raises:
        LopeError: the disk is full, or anything else that the system says.
    """
    try:
        yield
    except OSError as error:
        raise LopeError(
            f"{what} cannot be written ({error.strerror}); whole checkpoints stay so. Free "
            "disk space and run again with --resume."
        ) from None


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
