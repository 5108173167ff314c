"""Files that are either complete or not there, and the folder for those that can be made again."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Literal

from lope_dist.core.errors import LopeError


def cache_dir() -> Path:
    """Return the folder for files that can be made again (`$XDG_CACHE_HOME/lope_dist`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lope_dist"


@contextmanager
def telling_disk_errors(what: str | Path) -> Iterator[None]:
    """Context that turns a failure to write into one sentence.

    Raises:
        LopeError: the disk is full, or anything else that the system says.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise LopeError(
            f"{what if is_full else error.filename or what} cannot be written ({error.strerror}); "
            f"complete checkpoints are kept. {'Free disk space' if is_full else 'Mend that'} and "
            "run again with --resume."
        ) from None


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before the work whose result goes there.

    Raises:
        LopeError: it cannot be made, or a file in it cannot be.
    """
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(folder)):
            pass
    except OSError as error:
        raise LopeError(
            f"{folder} cannot be written ({error.strerror}); make it writable, or copy the run's "
            "folder to where it is."
        ) from None


def check_regular(path: Path) -> None:
    """Raise where something else stands in a file's place: a pipe is waited for without end.

    Raises:
        OSError: a folder, a pipe or a device is there. Nothing at all is no matter.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def open_nofollow(path: Path, mode: Literal["a", "a+"]) -> TextIOWrapper:
    """Open a text file of ours to write on; what stands there may not lead elsewhere.

    Raises:
        LopeError: a link is in its place. What it leads to is left as it is.
        OSError: it cannot be opened.
    """
    if not path.is_symlink():
        check_regular(path)
    access = os.O_WRONLY if mode == "a" else os.O_RDWR
    flags = access | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LopeError(
            f"{path} is a link, and lope would write a file there. The link's target was not "
            "changed. Remove the link, or choose another folder."
        ) from None
    return TextIOWrapper(os.fdopen(descriptor, f"{mode}b"), encoding="utf-8")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside ``path``, sync and rename, so that nobody ever reads a half-written file."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` that takes its place, synced, once the block ends well.

    Raises:
        OSError: it cannot be written, or a folder, a pipe or a device is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():  # a link is replaced
        check_regular(path)
    # Several nodes may write into one folder, and process ids are of a node.
    beside = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)  # of an earlier process of this number, or a link
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_torn(path: Path) -> None:
    """Remove what killed writers of ``path`` left behind; nobody else may be writing it."""
    for torn in path.parent.glob(f".{path.name}.*.tmp"):
        torn.unlink(missing_ok=True)
