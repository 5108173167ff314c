"""A temporary folder that goes with its process, also where that was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_YOUNG_S = 60.0
"""A folder that is younger may not be locked yet."""


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Make a folder in the system's temporary one for as long as the context lasts.

    Those of this user with the same prefix whose process was killed are removed: a lock on each,
    which the system drops with its process, tells them apart.
    """
    for left_over in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another start removes it too
            _remove_if_left(left_over)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder that nobody has locked.

    Raises:
        OSError: somebody has, or it is no folder of ours.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _YOUNG_S:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
