"""Worker processes that share this one's memory and do not outlive it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from lope_dist.core.errors import LopeError

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
_SLICE_S = 0.5


def forked_pool(
    num_workers: int, adopt: Callable[..., None], *inherited: Any
) -> ProcessPoolExecutor:
    """Return a pool of forked processes, each of which first runs ``adopt(*inherited)``.

    Forked, so that what they need (an open source, a tokenizer) is neither pickled nor opened
    again: its pages are shared. Ctrl-C is the parent's to handle. A worker is killed with its
    parent, whatever kills that.
    """
    # A tokenizer's own threads do not live through a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start,
        initargs=(os.getpid(), adopt, inherited),
    )


def _start(parent: int, adopt: Callable[..., None], inherited: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent, signal.SIGKILL)
    adopt(*inherited)


def await_result(pool: ProcessPoolExecutor, future: Future[T], what: str, limit_s: float) -> T:
    """Return what a worker of a pool has made.

    Time in which this process was stopped too does not count.

    Raises:
        LopeError: none came within the limit; names the workers that stand still. All of the
            pool's are ended.
    """
    waited_s = 0.0
    while waited_s < limit_s:
        try:
            return future.result(timeout=min(_SLICE_S, limit_s))
        except TimeoutError:
            if future.done():  # the error is the worker's own
                return future.result()
            waited_s += min(_SLICE_S, limit_s)
    processes = list(pool._processes.values())  # no public way to ask for them
    stopped = [str(p.pid) for p in processes if p.pid and _state_of(p.pid) in "Tt"]
    for process in processes:
        process.kill()
    who = (
        f"process {', '.join(stopped)} is stopped (SIGSTOP, a debugger?)" if stopped else "it hangs"
    )
    raise LopeError(f"A worker of {what} gave nothing for {limit_s:g} s: {who}; resume the run.")


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "?"


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Have this process get a signal when its parent is gone, whatever ended that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it went before the request
        os._exit(1)
