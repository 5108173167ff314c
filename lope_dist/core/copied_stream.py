"""A text stream whose whole lines someone else gets too."""

from __future__ import annotations

from collections.abc import Callable
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
