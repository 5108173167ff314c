"""A tokenizer's regular expressions are a stranger's program: what they may take is bounded.

They run in compiled code, which no signal of Python interrupts, so the tokenizer works in a
thread. One that goes on for too long is left behind, and ends with this process. At which row it
stands a forked process shows, which dies of its own timer.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from lope_dist.core.errors import LopeError

T = TypeVar("T")
A = TypeVar("A")
_MOST_S, _SLOWEST = 60.0, 20_000
"""Seconds of processor time for any texts, and beyond them the characters that are tokenized in
one: a fiftieth of what is usual."""
_LOOK_S = 0.2
_PATIENCE = 5
"""Times the limit, on the wall, for the process that shows at which row it stands."""


class SlowText(LopeError):
    """The tokenizer does not finish a text; the message is one sentence."""


class SlowRow(LopeError):
    """The tokenizer does not finish a row; the caller adds the file's name."""

    def __init__(self, reason: str, where: tuple[int, int]) -> None:
        super().__init__(reason)
        self.where = where
        """Number of the file and of the row in it."""

    def __reduce__(self) -> tuple[type[SlowRow], tuple[str, tuple[int, int]]]:
        return SlowRow, (str(self), self.where)  # it comes from other processes


def tokenized_in_time(tokenize: Callable[[list[str]], T], texts: list[str]) -> T:
    """Return what a tokenizer makes of texts.

    Time is the processor's, so that a machine that is busy or was stopped counts nothing.

    Raises:
        SlowText: it takes longer than any tokenizer should, or its compiled code fails.
        Exception: what it raises otherwise.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(tokenize(texts))
        except BaseException as error:  # a failure of compiled code is no Exception
            errors.append(error)

    limit_s = _MOST_S + sum(map(len, texts)) / _SLOWEST
    begin = time.process_time()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_LOOK_S)
    while thread.is_alive():
        if time.process_time() - begin > limit_s:
            raise _slow(f"takes more than {limit_s:.0f} s of processor time")
        thread.join(_LOOK_S)
    if not errors:
        return results[0]
    if isinstance(errors[0], Exception):
        raise errors[0]
    raise _slow(f"fails ({errors[0]})")


def rows_in_time(make: Callable[[list[A]], T], rows: Sequence[tuple[tuple[int, int], A]]) -> T:
    """Return what ``make``, which tokenizes, makes of rows that come with file and number.

    Raises:
        SlowRow: `SlowText` came of them.
    """
    try:
        return make([row for _, row in rows])
    except SlowText as error:
        index = _ends_with(lambda row: make([row[1]]), rows)
        raise SlowRow(str(error), rows[index][0]) from None


def _ends_with(work: Callable[[A], object], inputs: Sequence[A]) -> int:
    """Return with which input ``work`` raises or takes longer than any should; else the last."""
    with mmap.mmap(-1, 8) as note:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the failure was shown already
                os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads were left behind
                signal.signal(signal.SIGPROF, signal.SIG_DFL)
                for index, value in enumerate(inputs):
                    note[:] = struct.pack("=Q", index)
                    signal.setitimer(signal.ITIMER_PROF, _MOST_S)
                    work(value)
            finally:
                os._exit(0)
        deadline = time.monotonic() + _PATIENCE * _MOST_S
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:  # it waits for what a thread held when it was forked
                os.kill(child, signal.SIGKILL)
            time.sleep(_LOOK_S)
        (index,) = struct.unpack("=Q", note[:])
        return index


def _slow(problem: str) -> SlowText:
    return SlowText(
        f"The tokenizer {problem}: a regular expression of its tokenizer.json tries too many ways "
        "to match; mend it, or use another tokenizer."
    )
