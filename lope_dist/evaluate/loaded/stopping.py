"""Ctrl-C while a run answers: one sentence, status 130, and nothing of the other ranks' noise.

What an evaluation has is written as it comes, so there is nothing to save here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lope_dist.core.console import tell
from lope_dist.core.errors import Interrupted
from lope_dist.core.exits import note_exit
from lope_dist.engine.processes import num_ranks

_OTHERS_FIRST_S = 1.0
"""How long rank 0 outlives the others, which may wait for it in a collective."""


@contextmanager
def stopping_at_ctrl_c(kept: str) -> Iterator[None]:
    """Context in which Ctrl-C ends the command with a sentence; ``kept`` is the end of it.

    Raises:
        Interrupted: Ctrl-C was pressed, in a process by itself. A rank of several ends at once.
    """
    stop = Interrupted(f"Stopped by Ctrl-C. {kept}".rstrip())
    if num_ranks() == 1:
        try:
            yield
        except KeyboardInterrupt:
            raise stop from None
        return
    handlers = {signal.SIGINT: _end_now}
    if os.environ.get("RANK", "0") == "0":
        # Launchers follow with SIGTERM, which would end this rank before it can say anything.
        handlers = {signal.SIGINT: _say_and_end(stop), signal.SIGTERM: _end_of_sigterm}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_and_end(stop: Interrupted) -> Any:
    def end(*_: object) -> None:
        tell(str(stop))
        note_exit(stop.status, str(stop))
        sys.stderr.flush()
        time.sleep(_OTHERS_FIRST_S)
        os._exit(stop.status)

    return end


def _end_now(*_: object) -> None:
    os._exit(Interrupted.status)


def _end_of_sigterm(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
