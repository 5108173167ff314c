"""One run in a folder at a time: a lock that the system drops when its process dies."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.files import own_file

LOCK = ".lock"
_OURS = re.compile(rb"\0*|process \d+ on \S* since \S+\n")
"""What a lock says, or what the machine's power cut may have left of it."""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder while the context lasts.

    `flock`, which reaches over NFS too where its lock service runs. The file says who holds it,
    for people; what counts is the lock, so one that a killed process left is no hindrance.

    Raises:
        LopeError: another process holds it, the folder cannot be written, or a file of this name
            is not ours.
    """
    path = run_dir / LOCK
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = own_file(path, "a+")
    except OSError as error:
        raise LopeError(f"output_dir: {run_dir} cannot be written ({error.strerror}).") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = os.pread(file.fileno(), 1 << 10, 0).decode(errors="replace")
            holder = told.strip() or "another process"
            raise LopeError(
                f"{run_dir} is being written by {holder}; wait for it, end it, or set output_dir "
                "to another folder."
            ) from None
        except OSError as error:
            print(
                f"{path} cannot be locked on this file system ({error.strerror}): nothing keeps "
                "a second run out of this folder.",
                file=sys.stderr,
            )
        if not _OURS.fullmatch(os.pread(file.fileno(), 1 << 10, 0)):
            raise LopeError(
                f"{path} is no lock of ours and was left as it is; set output_dir to another "
                "folder."
            )
        _write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n")
        try:
            yield
        finally:
            _write(file.fileno(), "")


def _write(descriptor: int, text: str) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError:
        return  # a full disk: the lock holds without a name in it


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
