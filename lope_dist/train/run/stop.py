"""SIGINT, SIGTERM, SIGUSR1 and SIGHUP: a request to write a checkpoint and end.

Ctrl-C (SIGINT) before there is anything to save ends the run at once, and so does a second one.

The ranks agree on it in the sum that a step has anyway, so a signal to any one of them is enough.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from lope_dist.core.errors import EXIT_INTERRUPTED

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SAME_S = 3.0
"""Launchers pass on what their process group has got too: one request, several signals."""
_AGAIN_S = 0.5
"""Between Ctrl-C and another one by hand; what launchers pass on comes sooner."""


_TOLD = b"\nCtrl-C: the step is finished and a checkpoint written; once more ends at once.\n"


class StopRequest:
    """A flag that the signals set, while the context lasts; a later signal ends the process."""

    def __init__(self) -> None:
        self._since: float | None = None
        self.is_interrupt = False
        """Whether Ctrl-C made the request."""
        self.saves = False
        """Whether a stop is followed by a checkpoint: steps are being made."""
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
            heeded = [
                n for n in (signal.SIGINT, *SIGNALS) if signal.getsignal(n) != signal.SIG_IGN
            ]  # as of nohup
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now, is_ctrl_c = time.monotonic(), number == signal.SIGINT
        if is_ctrl_c and not self.saves:
            raise KeyboardInterrupt
        if self._since is None:
            self._since, self.is_interrupt = now, is_ctrl_c
            if is_ctrl_c and os.environ.get("RANK", "0") == "0":
                os.write(2, _TOLD)  # print is not safe here
        elif is_ctrl_c and now - self._since > _AGAIN_S:
            os._exit(EXIT_INTERRUPTED)
        elif not is_ctrl_c and now - self._since > _SAME_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
