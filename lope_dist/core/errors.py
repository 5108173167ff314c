"""The one exception that users see.

Its message is one sentence: what is wrong, where, what is allowed and how to mend it.
The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR, EXIT_PEER_LOST = 2, 69
"""Exit statuses: a mistake that another try would make again; and a rank, host or network that is
gone, where another try may well succeed (EX_UNAVAILABLE of sysexits.h)."""


class LopeError(ValueError):
    """Bad input, told in one sentence."""

    status = EXIT_USER_ERROR


class PeerLost(LopeError):
    """Another rank, its host or the network to it is gone, told in one sentence."""

    status = EXIT_PEER_LOST


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed spelling, or ``""``."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
