"""Disks that are full: on a small file system of their own, which takes root to mount."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import (
    NEWEST,
    assert_equals_undisturbed,
    assert_tells,
    last_told,
    metrics,
    reference,
    stopped,
    train,
)
from support.launching import succeed

GROUP = "Full disks"


@contextlib.contextmanager
def tmpfs(place: Path, kib: int) -> Iterator[None]:
    """Mount a small file system.

    Raises:
        RuntimeError: this needs root, and the right to mount.
    """
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@case(
    "full-disk",
    group=GROUP,
    states="A disk that is full at a checkpoint ends the run with a sentence; the one before is "
    "whole, nothing half-written stays, and with space it goes on.",
)
def _full_disk(folder: Path) -> dict[str, Any]:
    with tmpfs(folder / "run", kib=1024):
        recipe = stopped(folder)
        places = folder / "run" / "checkpoints"
        size = sum(path.stat().st_size for path in (places / NEWEST).iterdir())
        free = shutil.disk_usage(folder / "run").free
        ballast = folder / "run" / "ballast"
        ballast.write_bytes(b"x" * (free - 24 * 1024))
        ended = train(recipe, 2, attempt=1)
        assert [rank.status for rank in ended] == [2, 2], ended[0].output[-2000:]
        assert_tells(ended[0], "could not be written", "No space left on device", "--resume")
        assert "Traceback" not in ended[0].output
        assert last_told(folder / "run") == (NEWEST, "")
        assert not list(places.glob(".*"))
        ballast.unlink()
        succeed(train(recipe, 2, attempt=2))
        assert_equals_undisturbed(folder, 3, reference(folder, 2))
    return {"checkpoint_bytes": size}


@case(
    "full-disk-at-a-log-line",
    group=GROUP,
    states="A disk without one free byte ends a resume with a sentence and harms nothing.",
)
def _no_byte_free(folder: Path) -> dict[str, Any]:
    with tmpfs(folder / "run", kib=1024):
        recipe = stopped(folder)
        ballast = folder / "run" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        lines = len(metrics(folder))
        ended = train(recipe, 2, attempt=1)
        assert [rank.status for rank in ended] == [2, 2], ended[1].output[-2000:]
        assert_tells(ended[0], "No space left on device")
        assert "Traceback" not in ended[0].output, ended[0].output[-3000:]
        assert last_told(folder / "run") == (NEWEST, "")
        assert len(metrics(folder)) == lines
    return {}
