"""What a stranger's file may take: a bound on processor time and on memory.

A template or a recipe is a small program. One that loops or grows without end is stopped, in
this process, without a second one.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lope_dist.core.errors import LopeError

_AGAIN_S = 0.5
"""The signal comes again: what it raises may be lost in a destructor."""


class _TookTooLong(BaseException):
    """No `Exception`: libraries catch those, and would go on."""


@contextmanager
def bounded(what: str, *, seconds: float, mib: int | None = None) -> Iterator[None]:
    """Context whose block may take so much processor time and so much more memory.

    Time is the process's own, so that a machine that was stopped meanwhile counts nothing. It is
    bounded in the main thread alone, for Python delivers signals there; memory everywhere on
    Linux, by the address space that the process may have.

    Args:
        what: Subject of the sentence, for example "recipe.yaml".
        seconds: Of processor time.
        mib: Beyond what the process has; None for no bound.

    Raises:
        LopeError: the block took more.
    """
    try:
        with _memory_bound(mib), _time_bound(seconds):
            yield
    except _TookTooLong:
        raise LopeError(
            f"{what} takes more than {seconds:g} s to evaluate; does it repeat itself without end?"
        ) from None
    except MemoryError:
        if mib is None:
            raise
        raise LopeError(
            f"{what} takes more than {mib} MiB to evaluate; does it grow without end?"
        ) from None


@contextmanager
def _time_bound(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _TookTooLong


@contextmanager
def _memory_bound(mib: int | None) -> Iterator[None]:
    statm = Path("/proc/self/statm")  # of Linux
    if mib is None or not statm.exists():
        yield
        return
    pages = int(statm.read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = pages * resource.getpagesize() + (mib << 20)
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
