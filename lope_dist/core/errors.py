"""The one exception that users see.

Its message is one sentence: what is wrong, where, what is allowed and how to mend it.
The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LopeError(ValueError):
    """Bad input, told in one sentence."""


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed spelling, or ``""``."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
