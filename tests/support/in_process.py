"""A study's commands in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.study.children import Child


class InProcess(Child):
    """A command run at once in this process, in place of a child: what it does is the same."""

    def __init__(self, arguments: Sequence[str], log: Path, _threads: int, _grace: float) -> None:
        self.log, self.started = log, time.monotonic()
        result = CliRunner().invoke(app, list(arguments))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{result.output}\n{result.exception!r}")
        error = result.exception
        self._status = getattr(error, "status", result.exit_code)  # as `main` ends with it

    def poll(self) -> int:
        """Return its status."""
        return self._status

    def stop(self) -> None:
        """Do nothing: it has ended."""
