"""Streams in the place of standard ones: one copies whole lines, one outlives its reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


class CopiedStream:
    """Replaces a standard stream and copies its lines; of one drawn over, the last state.

    Args:
        like: The stream in whose place it stands.
        keep: Gets each line that is whole and not empty.
        is_shown: Whether ``like`` gets the text too.
    """

    def __init__(self, like: TextIO, keep: Callable[[str], None], is_shown: bool) -> None:
        self._like, self._keep, self._is_shown, self._line = like, keep, is_shown, ""

    def write(self, text: str) -> int:
        """Write text, and hand on the lines that it ends."""
        *whole, rest = (self._line + text).split("\n")
        self._line = rest.rpartition("\r")[2]
        for line in whole:
            if line := line.rstrip("\r").rpartition("\r")[2].rstrip():
                self._keep(line)
        if self._is_shown:
            self._like.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what is shown."""
        if self._is_shown:
            self._like.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._like, name)


class SparedStream:
    """Stands in the place of stderr: `tee` that ended, a closed terminal, a full disk of logs.

    Once it takes no more, its file descriptor leads to the null device, so that libraries and
    Python's own end are spared too.

    Args:
        like: The stream; None where the process was started without one.
        lost: Called once with the reason.
    """

    def __init__(self, like: TextIO | None, lost: Callable[[str], None]) -> None:
        self._like, self._lost = like or _to_nobody(), lost

    def write(self, text: str) -> int:
        """Write text, if there is anyone who takes it."""
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        self._try(lambda stream: stream.flush())

    def _try(self, action: Callable[[TextIO], object]) -> None:
        try:
            action(self._like)
        except (OSError, ValueError) as error:  # of a closed one it is a `ValueError`
            gone, self._like = self._like, _to_nobody()
            with suppress(OSError, ValueError):
                os.dup2(self._like.fileno(), gone.fileno())
            self._lost(str(getattr(error, "strerror", None) or error))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._like, name)


def _to_nobody() -> TextIO:
    return open(os.devnull, "w")
