"""SIGTERM, SIGUSR1 and SIGHUP: a request to write a checkpoint and end.

The ranks agree on it in the sum that a step has anyway, so a signal to any one of them is enough.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SAME_S = 3.0
"""Launchers pass on what their process group has got too: one request, several signals."""


class StopRequest:
    """A flag that the signals set, while the context lasts; a later signal ends the process."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def is_made(self) -> bool:
        """Whether a signal has come."""
        return self._since is not None

    def make(self) -> None:
        """Make the request from within."""
        self._since = self._since or time.monotonic()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            heeded = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # as of nohup
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > _SAME_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
