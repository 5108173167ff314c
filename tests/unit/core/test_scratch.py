"""Temporary folders of processes that were killed are removed, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lope_dist.core.scratch import scratch_folder

HOLDS = """
import sys, time
from lope_dist.core.scratch import scratch_folder
with scratch_folder("lope-test-") as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_one_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDS],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        for _ in range(2)
    ]
    killed, held = (Path((p.stdout or sys.stdin).readline().strip()) for p in holders)
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait()
    of_others, linked = tmp_path / "other", tmp_path / "lope-test-link"
    of_others.mkdir()
    linked.symlink_to(of_others)
    an_hour_ago = time.time() - 3600
    for folder in (killed, held, of_others):
        os.utime(folder, (an_hour_ago, an_hour_ago))
    young = tmp_path / "lope-test-young"
    young.mkdir()
    with scratch_folder("lope-test-") as folder:
        assert folder.is_dir()
        assert sorted(tmp_path.iterdir()) == sorted([held, of_others, linked, young, folder])
    assert not folder.exists()
    holders[1].kill()
    holders[1].wait()
