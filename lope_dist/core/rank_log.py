"""A rank's log file, whose path is known only once its run has a folder."""

from __future__ import annotations

import os
from collections import deque
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path

from lope_dist.core.files import open_nofollow

_MOST_ENTRIES, _LONGEST = 2_000, 20_000


class RankLog:
    """What one rank says, an entry at a time: in memory until there is a file, then in the file.

    There is no lock that a thread or a forked worker could leave held: an entry is one write to
    a file opened to append.
    """

    def __init__(self) -> None:
        self._early: deque[str] = deque(maxlen=_MOST_ENTRIES)
        self._num_early = 0
        self._file: TextIOWrapper | None = None
        self.path: Path | None = None
        self._absolute_path = Path()

    def write(self, source: str, text: str) -> None:
        """Add an entry.

        Raises:
            OSError: the file takes no more.
        """
        text = text.rstrip()
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]} ... ({len(text):,} characters)"
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
        entry = f"{now} {source}: {text}\n"
        if self._file is None:
            self._early.append(entry)
            self._num_early += 1
        else:
            os.write(self._kept_open(self._file), entry.encode(errors="replace"))

    def open(self, path: Path) -> None:
        """Move to a file, at its end if it is there already.

        Raises:
            LopeError: a link is in its place.
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_nofollow(path, "a")
        os.write(file.fileno(), "".join(self.early()).encode(errors="replace"))
        self.close()
        self._file, self.path = file, path
        self._absolute_path = path.absolute()  # the folder that is worked in may change
        self._early.clear()

    def _kept_open(self, file: TextIOWrapper) -> int:
        """Return the file's descriptor; one that was removed or renamed is begun anew."""
        run_dir = self._absolute_path.parent.parent
        if not os.path.lexists(self._absolute_path) and run_dir.is_dir():  # else the run tells
            self._absolute_path.parent.mkdir(exist_ok=True)
            file.close()
            self._file = file = open_nofollow(self._absolute_path, "a")
        return file.fileno()

    def early(self) -> list[str]:
        """Return the entries that are in memory, with a line for those that were dropped."""
        num_dropped = self._num_early - len(self._early)
        note = [f"({num_dropped:,} earlier entries were dropped)\n"] if num_dropped > 0 else []
        return [*note, *self._early]

    def close(self) -> None:
        """End the file; later entries go to memory again."""
        if self._file is not None:
            self._file.close()
            self._file, self._num_early = None, len(self._early)
