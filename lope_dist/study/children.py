"""Commands of `lope` as child processes, their output in a log file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lope_dist.core.files import open_nofollow
from lope_dist.core.workers import end_with_parent

_LAST_LINES = 8
_TAIL_BYTES = 4096
_PROGRESS = re.compile(r"\d\d:\d\d:\d\d (.+)")
"""A line that tells how far a command is."""


class Child:
    """A command that runs; it gets SIGTERM when this process is gone, whatever ended that."""

    def __init__(
        self, arguments: Sequence[str], log: Path, num_threads: int, grace_s: float
    ) -> None:
        self.log, self._grace_s = log, grace_s
        self.started = time.monotonic()
        self._stopped: float | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        with open_nofollow(log, "a") as output:
            print(f"$ lope {' '.join(arguments)}", file=output, flush=True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lope_dist.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the study's to handle
                env=environment,
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
            )

    @property
    def seconds(self) -> float:
        """How long it runs."""
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """Return its exit status, None while it runs; kill it once its grace to stop is over."""
        overdue = self._stopped is not None and time.monotonic() - self._stopped > self._grace_s
        if overdue and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return self._process.poll()

    def stop(self) -> None:
        """Ask it once to end: training writes a checkpoint first."""
        if self._stopped is None and self._process.poll() is None:
            self._process.terminate()
            self._stopped = time.monotonic()

    def progress(self) -> str:
        """Return how far it is, as the end of its log says; "" where it has not said so yet."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").split("\n")
        reports = (match[1] for line in reversed(lines) if (match := _PROGRESS.match(line)))
        return next(reports, "")

    def last_lines(self) -> list[str]:
        """Return the end of its log; of a progress bar its last state."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
        return [line for line in lines if line][-_LAST_LINES:]
