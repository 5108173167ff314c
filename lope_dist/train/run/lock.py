"""One run in a folder at a time: a lock that the system drops when its process dies."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.files import open_nofollow

LOCK = ".lock"
_PATIENCE_S = 30.0
"""Beyond the time that the supervisor gives a run to end."""
_OURS = re.compile(rb"\0*|process \d+ on \S* since \S+\n")
"""What a lock says, or what the machine's power cut may have left of it."""


class RunHold:
    """A run's folder and that of its checkpoints, as long as they are the ones that were taken."""

    def __init__(self, run_dir: Path) -> None:
        self._taken: dict[Path, int] = {}
        self._taken[run_dir] = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        self.newest: Path | None = None
        """The newest checkpoint that this start has written."""

    def take(self, folder: Path) -> None:
        """Take a folder inside, which is made where it is absent.

        Raises:
            OSError: it cannot be.
        """
        folder.mkdir(exist_ok=True)
        if folder not in self._taken:
            self._taken[folder] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def lost(self) -> Path | None:
        """Return the outermost that does not stand under its name any more, if any does not.

        It was removed, or renamed, or another took its place.
        """
        gone = (folder for folder, taken in self._taken.items() if not _stands(folder, taken))
        return next(gone, None)

    def close(self) -> None:
        """Let go of the folders."""
        for descriptor in self._taken.values():
            os.close(descriptor)
        self._taken.clear()


def _stands(folder: Path, taken: int) -> bool:
    """Return whether an open folder is the one under this name.

    Some file systems number a folder anew while it is in use. So where the numbers differ, a file
    that is made in the open folder decides: it is seen under the name, or it is not.
    """
    try:
        if os.path.samestat(os.fstat(taken), folder.stat()):
            return True
        probe = f".lope-probe.{os.getpid()}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=taken))
        try:
            return (folder / probe).exists()
        finally:
            os.unlink(probe, dir_fd=taken)
    except OSError:
        return False


@contextmanager
def run_lock(run_dir: Path) -> Iterator[RunHold]:
    """Hold a run's folder while the context lasts.

    `flock`, which reaches over NFS too where its lock service runs. The file says who holds it,
    for people; what counts is the lock, so one that a killed process left is no hindrance. Under
    `launch/supervise.py` a run that is ending is waited for: its supervisor may have been killed.

    Raises:
        LopeError: another process holds it, the folder cannot be written, or a file of this name
            is not ours.
    """
    path = run_dir / LOCK
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open_nofollow(path, "a+")
    except OSError as error:
        raise LopeError(f"output_dir: {run_dir} cannot be written ({error.strerror}).") from None
    with file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            text = os.pread(file.fileno(), 1 << 10, 0).decode(errors="replace")
            holder = text.strip() or "another process"
            raise LopeError(
                f"{run_dir} is being written by {holder}; wait for it, end it, or set output_dir "
                "to another folder."
            ) from None
        except OSError as error:
            print(
                f"{path} cannot be locked on this file system ({error.strerror}): nothing keeps a "
                "second run out of this folder.",
                file=sys.stderr,
            )
        if not _OURS.fullmatch(os.pread(file.fileno(), 1 << 10, 0)):
            raise LopeError(
                f"{path} is not a lock file of lope and was not changed; set output_dir to another "
                "folder."
            )
        _write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n")
        hold = RunHold(run_dir)
        try:
            yield hold
        finally:
            hold.close()
            _write(file.fileno(), "")
            if not (run_dir / "run.yaml").exists():  # it was refused, and is another's
                path.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    """Take the lock; a supervised start waits for it a while.

    Raises:
        BlockingIOError: another process holds it.
    """
    grace_s = os.environ.get("LOPE_GRACE_S")
    deadline = time.monotonic() + (float(grace_s) + _PATIENCE_S if grace_s else 0.0)
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _write(descriptor: int, text: str) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError:
        return  # a full disk: the lock holds without a name in it


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
