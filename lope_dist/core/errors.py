"""The one exception that users see.

Its message is one sentence: what is wrong, where, what is allowed and how to mend it.
The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR, EXIT_PEER_LOST, EXIT_PREEMPTED, EXIT_INTERRUPTED = 2, 69, 75, 130
"""Exit statuses: a mistake that another try would make again; a rank, host, network or worker that
is gone, where another try may well succeed (EX_UNAVAILABLE of sysexits.h); a run that a signal
stopped, which wrote a checkpoint and can be resumed (EX_TEMPFAIL); and one that Ctrl-C stopped, the
status that shells give it."""


class LopeError(ValueError):
    """Bad input, described in one sentence."""

    status = EXIT_USER_ERROR


class NewerFormat(LopeError):
    """A file from a newer version, described in one sentence."""


def refuse_newer(written: object, newest: int, what: object) -> None:
    """Refuse a format that this version does not know; older ones it reads.

    Args:
        written: The format that the file states.
        newest: The newest that this version reads.
        what: The file, for the sentence.

    Raises:
        NewerFormat: it is newer.
        LopeError: it is no format at all.
    """
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise LopeError(f"{what} is of no known format ({written!r}).")
    if written > newest:
        raise NewerFormat(
            f"{what} is of format {written}, written by a newer version of lope_dist; this one "
            f"reads formats up to {newest}. Update lope_dist."
        )


class Diverged(LopeError):
    """Training came to a loss or gradient that is not finite; the message is one sentence."""


class TryAgain(LopeError):
    """What another try may well mend, as a killed worker process; the message is one sentence."""

    status = EXIT_PEER_LOST


class PeerLost(LopeError):
    """Another rank, its host or the network to it is gone; the message is one sentence.

    Args:
        sentence: The message.
        status: That of the rank that stopped, where it told: another try would end as its own.
    """

    def __init__(self, sentence: str, status: int = EXIT_PEER_LOST) -> None:
        super().__init__(sentence)
        self.status = status


class Preempted(Exception):
    """A signal stopped the run; its message says where it can be resumed."""

    status = EXIT_PREEMPTED


class Interrupted(Preempted):
    """Ctrl-C stopped it; its message says what is left to go on from."""

    status = EXIT_INTERRUPTED


def status_of(error: BaseException) -> int:
    """Return the exit status of ranks that stop because one of them met this error."""
    return error.status if isinstance(error, (LopeError, Preempted)) else EXIT_PEER_LOST


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed spelling, or ``""``."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class; without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
