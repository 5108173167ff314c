"""A stream for messages that costs nobody a run when nobody reads it any more."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


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
