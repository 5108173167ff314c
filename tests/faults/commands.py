"""`lope` commands for cases that need no training processes, and finished runs to harm.

A command runs in the case's own process, as `lope` would: what it says and its status are looked
at. The runs are trained once for all cases and copied.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from faults.runs import stopped, train, write_recipe
from support.launching import succeed

from lope_dist.cli import main
from lope_dist.core.errors import EXIT_USER_ERROR
from lope_dist.core.locks import file_lock


class Ended(NamedTuple):
    """How a command has ended."""

    status: int
    said: str
    """Both of its streams."""


def lope(*arguments: object) -> Ended:
    """Run a command; a traceback is said, and is status 1."""
    said, status = io.StringIO(), 0
    before, sys.argv = sys.argv, ["lope", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except Exception:
                status = 1
                traceback.print_exc()
    finally:
        sys.argv = before
    print(f"$ lope {' '.join(map(str, arguments))}\n{said.getvalue()}[{status}]", flush=True)
    return Ended(status, said.getvalue())


def refused(*arguments: object, told: tuple[str, ...]) -> str:
    """Assert that a command ends with one sentence, in which all of ``told`` stand; return it."""
    ended = lope(*arguments)
    assert ended.status == EXIT_USER_ERROR, ended.said[-3000:]
    # It may stand behind a progress bar.
    (sentence,) = [line for line in ended.said.splitlines() if "error: " in line]
    for part in told:
        assert part in sentence, f"{part!r} is not in: {sentence}"
    assert "Traceback" not in ended.said
    return sentence


def works(*arguments: object, told: tuple[str, ...] = ()) -> str:
    """Assert that a command ends well and says all of ``told``; return what it said."""
    ended = lope(*arguments)
    assert ended.status == 0, ended.said[-3000:]
    for part in told:
        assert part in ended.said, f"{part!r} is not in: {ended.said[-3000:]}"
    return ended.said


def finished_run(folder: Path) -> Path:
    """Put a run that has ended well into ``folder``/run; return its recipe."""
    return _copied(folder, "finished", lambda place: succeed(train(_local(place), 1)))


def stopped_run(folder: Path) -> Path:
    """The same with a run that SIGTERM stopped in the middle of its second stage."""
    return _copied(folder, "stopped", lambda place: stopped(place, engine__kind="local"))


def _local(folder: Path) -> Path:
    return write_recipe(folder, engine__kind="local")


def _copied(folder: Path, name: str, make) -> Path:
    cache = folder.parent / f"{name}-run"
    with file_lock(Path(f"{cache}.lock")):
        if not (cache / "done").exists():
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir()
            make(cache)
            (cache / "done").touch()
    shutil.copytree(cache / "run", folder / "run")
    return _local(folder)
