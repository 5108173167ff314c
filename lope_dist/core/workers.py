"""Worker processes that share this one's memory and do not outlive it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_PR_SET_PDEATHSIG = 1


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
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent, signal.SIGKILL)
    adopt(*inherited)


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Have this process get a signal when its parent is gone, whatever ended that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it went before the request
        os._exit(1)
