"""How long is waited, on machines that are busy with other things too."""

from __future__ import annotations

import time
from pathlib import Path

from support.launching import processes_naming

LIMIT_S = 400.0
"""Ends the wait for what hangs. It states nothing of how fast something is."""
_WORK_S = 0.2


def assert_within(seconds: float, limit_s: float) -> None:
    """Assert that something took less than a limit, which is that of an idle machine.

    On a busy one the limit is as much longer as a piece of work takes longer there just now.
    """
    limit_s *= max(1.0, _slowness())
    assert seconds < limit_s, f"took {seconds:.1f} s, more than {limit_s:.1f} s"


def assert_none_left(folder: Path) -> None:
    """Assert that the processes with a folder in their command line come to their end."""
    deadline = time.monotonic() + LIMIT_S
    while left := processes_naming(str(folder)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _slowness() -> float:
    """Return how many seconds on the wall one of the processor takes."""
    on_the_wall, worked = time.monotonic(), time.process_time()
    while time.process_time() - worked < _WORK_S:
        pass
    return (time.monotonic() - on_the_wall) / _WORK_S
