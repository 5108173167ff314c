"""Ranks forked from one process that has imported what all of them import.

Half of what a short launch takes is importing torch, transformers and DeepSpeed, once a rank. Here
that is done once for all launches, by the standard library's fork server. A forked rank is a
process like any other, but for two things: its hash seed is that of all the others, and its command
line is the server's. `start_ranks` and the launchers' tests start fresh interpreters.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = ["lope_dist.train.session", "lope_dist.engine.zero"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOADED)


class ForkedRank:
    """A forked rank with the methods of `subprocess.Popen` that `Running` calls."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path
    ) -> None:
        settings = list(arguments), str(folder), dict(variables), str(log)
        self._process = _CONTEXT.Process(target=_run, args=settings)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.join()


def _run(arguments: list[str], folder: str, variables: dict[str, str], log: str) -> None:
    """Do in a forked process what ``python ARGUMENTS`` does in a new one."""
    import atexit

    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = variables.get("PYTHONPATH", "").split(os.pathsep)
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process has none of its own
