"""How a rank ends badly: one sentence, a status, and a note for the supervisor."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from lope_dist.core.errors import LopeError


def fail(error: LopeError) -> NoReturn:
    """Print the error's sentence with this rank's number and exit with its status."""
    rank = os.environ.get("RANK", "0")
    print(f"error (rank {rank}): {error}", file=sys.stderr, flush=True)
    note_exit(error.status, str(error))
    sys.exit(error.status)


def note_exit(status: int, sentence: str) -> None:
    """Tell `launch/supervise.py`, if it asked, why this rank ends: launchers hide the status."""
    path = os.environ.get("LOPE_EXIT_FILE")
    if path:
        rank = os.environ.get("RANK", "0")
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{rank} {status} {' '.join(sentence.split())}\n")
