"""The one exception that users see.

Its message is one sentence: what is wrong, where, what is allowed and how to mend it.
The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_PREEMPTED = 75
"""Exit status of a run that a signal stopped: it wrote a checkpoint and can be resumed.

EX_TEMPFAIL of sysexits.h: "try again later".
"""


class LopeError(ValueError):
    """Bad input, told in one sentence."""


class Preempted(Exception):
    """A signal stopped the run; its message says where it can be resumed."""


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed spelling, or ``""``."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
