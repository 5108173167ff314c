"""How a rank ends early: one sentence, a status, and a note for the supervisor."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lope_dist.core.console import show_error, tell
from lope_dist.core.errors import LopeError, Preempted


def end(cause: LopeError | Preempted) -> NoReturn:
    """Print why this rank ends and exit with the cause's status; of a stop only rank 0 prints.

    One of several ranks does not wait for Python to be taken apart: a collective that is still
    under way would abort the process meanwhile, and its status would be lost. Exit handlers of
    libraries are left out too; what a run holds open is closed by its own contexts before.
    """
    rank = os.environ.get("RANK", "0")
    if isinstance(cause, LopeError):
        show_error(f"error (rank {rank}): {cause}")
    elif rank == "0":
        tell(str(cause))
    note_exit(cause.status, str(cause))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        atexit.register(_leave, cause.status)
    sys.exit(cause.status)


def end_at_once(cause: LopeError) -> NoReturn:
    """End the process from another thread: the main one may hang, so nothing is cleaned up."""
    rank = os.environ.get("RANK", "0")
    show_error(f"error (rank {rank}): {cause}")
    note_exit(cause.status, str(cause))
    _leave(cause.status)


def note_exit(status: int, sentence: str) -> None:
    """Tell `launch/supervise.py`, if it asked, why this rank ends: launchers hide the status."""
    path = os.environ.get("LOPE_EXIT_FILE")
    if path:
        rank = os.environ.get("RANK", "0")
        with suppress(OSError), open(path, "a", encoding="utf-8") as file:  # it may be gone
            file.write(f"{rank} {status} {' '.join(sentence.split())}\n")


def note_progress() -> None:
    """Tell `launch/supervise.py`, if it asked, that a restart would go on from here."""
    if path := os.environ.get("LOPE_EXIT_FILE"):
        with suppress(OSError):  # it may be gone
            Path(f"{path}.progress").touch()


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
