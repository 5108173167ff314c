"""Worker processes that share this one's memory and do not outlive it."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lope_dist.core.errors import TryAgain

T = TypeVar("T")
A = TypeVar("A")
_PR_SET_PDEATHSIG = 1
_SLICE_S, _MOST_STOPPED_S = 0.5, 10.0


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


def in_order(
    make: Callable[[A], T],
    inputs: Iterable[A],
    num_workers: int,
    *,
    what: str,
    remedy: str,
    limit_s: float = math.inf,
) -> Iterator[tuple[A, T]]:
    """Yield each input and what ``make`` returns for it, in order, made by worker processes.

    They are two inputs each ahead of the caller; with 0 workers all is made here. ``make`` is
    inherited, so it may hold anything; inputs and results are pickled.

    Args:
        make: What to call.
        inputs: What with.
        num_workers: Processes.
        what: Whose workers they are, for errors.
        remedy: What the user can do when one of them died.
        limit_s: How long a worker may give nothing.

    Raises:
        TryAgain: a worker died, stands still, or gave nothing for ``limit_s``.
        Exception: what ``make`` raises.
    """
    if num_workers == 0:
        yield from ((given, make(given)) for given in inputs)
        return
    pool = forked_pool(num_workers, _adopt, make)
    watch = Watch(pool, what, limit_s)
    ahead: deque[tuple[A, Future[T]]] = deque()

    def following() -> tuple[A, T]:
        given, future = ahead.popleft()
        return given, watch.result(future)

    try:
        for given in inputs:
            ahead.append((given, pool.submit(_make, given)))
            if len(ahead) > 2 * num_workers:
                yield following()
        while ahead:
            yield following()
    except BrokenProcessPool:
        raise TryAgain(
            f"A worker of {what} died (killed, perhaps because memory ran out); {remedy}."
        ) from None
    finally:
        pool.shutdown(wait=limit_s == math.inf, cancel_futures=True)  # one that hangs never ends


_inherited: Callable[..., Any] | None = None  # of a worker process


def _adopt(make: Callable[..., Any]) -> None:
    global _inherited
    _inherited = make


def _make(given: Any) -> Any:
    assert _inherited is not None
    return _inherited(given)


def _start(parent: int, adopt: Callable[..., None], inherited: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent, signal.SIGKILL)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # OpenMP's threads do not live through a fork: it waits for them
    adopt(*inherited)


class Watch:
    """Waits for what a pool's workers make, and sees whether they still run meanwhile.

    Time in which this process was stopped too does not count.

    Args:
        pool: Whose workers they are.
        what: What the workers do, for the error message.
        limit_s: For one result. Workers that are stopped are noticed after 10 s, or half of it.
    """

    def __init__(self, pool: ProcessPoolExecutor, what: str, limit_s: float = math.inf) -> None:
        self._pool, self._what, self._limit_s = pool, what, limit_s
        self._most_stopped_s = min(_MOST_STOPPED_S, limit_s / 2)
        self._slice_s = min(_SLICE_S, limit_s / 4)
        self._last_look = time.monotonic()
        self._waited_s = 0.0
        self._stopped_s: dict[int, float] = {}

    def result(self, future: Future[T]) -> T:
        """Return what a worker has made.

        Raises:
            TryAgain: none came within the limit, or a worker stands still; names it. All of the
                pool's are ended.
        """
        self._waited_s = 0.0
        while not wait([future], self._slice_s).done:
            self._look()
        self._look()  # results may come faster than slices pass
        return future.result()

    def _look(self) -> None:
        now = time.monotonic()
        passed_s = min(now - self._last_look, self._slice_s)
        if passed_s < self._slice_s:
            return
        self._last_look = now
        self._waited_s += passed_s
        processes = list(self._pool._processes.values())  # no public way to ask for them
        self._stopped_s = {
            p.pid: self._stopped_s.get(p.pid, 0.0) + passed_s
            for p in processes
            if p.pid and _state_of(p.pid) in "Tt"
        }
        stopped = [pid for pid, s in self._stopped_s.items() if s >= self._most_stopped_s]
        if stopped or self._waited_s >= self._limit_s:
            for process in processes:
                process.kill()
            # One that was stopped while it wrote a result leaves half of it: only the end of the
            # pipe frees the pool's thread that reads it, and with it this process to end.
            self._pool._result_queue._writer.close()  # pyright: ignore
            self._tell(stopped)

    def _tell(self, stopped: list[int]) -> NoReturn:
        if not stopped:
            raise TryAgain(
                f"A worker of {self._what} hangs: it gave nothing for {self._limit_s:g} s; start "
                "the same again, which goes on from what is done."
            )
        who = ", ".join(map(str, sorted(stopped)))
        raise TryAgain(
            f"A worker of {self._what} stands still: process {who} is stopped (by SIGSTOP or a "
            f"debugger) for {self._most_stopped_s:g} s; start the same again, which goes on from "
            "what is done."
        )


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
