"""The console of a verb that is given a run: what libraries say goes to a log of that run."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from lope_dist.core.console import keep_log_in, open_console

_LOGS, _CHECKPOINTS = "logs", "checkpoints"


def on_run_console(verb: Callable[..., None]) -> Callable[..., None]:
    """Hold the console while a verb works on its ``run``; the log is ``RUN/logs/VERB-0.log``.

    An export, which is given to others as it is, and a folder that is not to be written get no
    file; nothing is hidden then.
    """

    @wraps(verb)
    def held(*, run: Path, **options: Any) -> None:
        if not _may_have_logs(run):
            return verb(run=run, **options)
        with open_console():
            keep_log_of(run, verb.__name__)
            return verb(run=run, **options)

    return held


def keep_log_of(run: Path, verb: str) -> None:
    """Keep the log of an open console in the run's folder, if that may have one."""
    if _may_have_logs(run):
        keep_log_in(run / _LOGS, verb)


def _may_have_logs(run: Path) -> bool:
    return (run / _CHECKPOINTS).is_dir() and os.access(run, os.W_OK)
