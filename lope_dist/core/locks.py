"""A file that one process holds at a time, where the file system has locks."""

from __future__ import annotations

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lope_dist.core.files import open_nofollow

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def file_lock(path: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold a file, `flock`ed, while the context lasts; the system drops it when a process dies.

    On a file system without locks nothing is held, which is told once.

    Args:
        path: The lock's own file, made where it is absent and left behind.
        waits: Whether to wait for who holds it.

    Raises:
        BlockingIOError: another holds it, and nobody waits.
        LopeError: a link is in the file's place.
        OSError: the file cannot be opened.
    """
    with open_nofollow(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _tell(path.parent, str(error.strerror))
        yield


@cache
def _tell(folder: Path, reason: str) -> None:
    print(
        f"Files in {folder} cannot be locked on this file system ({reason}): nothing keeps two "
        "processes apart that write there at once.",
        file=sys.stderr,
    )
