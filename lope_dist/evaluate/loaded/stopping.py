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
from types import FrameType
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
    is_first = os.environ.get("RANK", "0") == "0"
    handlers = _handlers_of_rank_0(stop) if is_first else {signal.SIGINT: _end_now}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handlers_of_rank_0(stop: Interrupted) -> dict[int, Any]:
    def say_and_end(*_: object) -> None:
        tell(str(stop))
        note_exit(stop.status, str(stop))
        sys.stderr.flush()
        time.sleep(_OTHERS_FIRST_S)
        os._exit(stop.status)

    def end_of_sigterm(_number: int, frame: FrameType | None) -> None:
        while (
            frame is not None
        ):  # both signals at once: this one comes before the other's first line
            if frame.f_code is say_and_end.__code__:
                return
            frame = frame.f_back
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    # Launchers follow with SIGTERM, which would end this rank before it can say anything.
    return {signal.SIGINT: say_and_end, signal.SIGTERM: end_of_sigterm}


def _end_now(*_: object) -> None:
    os._exit(Interrupted.status)
