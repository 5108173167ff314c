"""A supervisor that is killed leaves nothing running and nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

LAUNCH = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def end(*_):
    (folder / "ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(folder / "notes").write_text(os.environ["LOPE_EXIT_FILE"])
(folder / "pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_the_launch_is_asked_to_end(repository: Path, tmp_path: Path, number: int) -> None:
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH)
    command = [sys.executable, "launch/supervise.py", "--", sys.executable, script, tmp_path]
    supervisor = subprocess.Popen(
        command,
        cwd=repository,
        start_new_session=True,
        # Under nohup it would be born deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    _until((tmp_path / "pid").exists)
    os.kill(supervisor.pid, number)
    supervisor.wait(30)
    _until((tmp_path / "ended").exists)
    pid = int((tmp_path / "pid").read_text())
    _until(lambda: not psutil.pid_exists(pid))
    notes = Path((tmp_path / "notes").read_text())
    _until(lambda: not notes.parent.exists())


def test_a_guardian_that_was_killed_ends_no_supervisor(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH)
    command = [sys.executable, "launch/supervise.py", "--", sys.executable, script, tmp_path]
    supervisor = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    _until((tmp_path / "pid").exists)
    launch = int((tmp_path / "pid").read_text())
    _until(lambda: len(psutil.Process(supervisor.pid).children()) == 2)
    (guardian,) = [p for p in psutil.Process(supervisor.pid).children() if p.pid != launch]
    guardian.kill()
    os.kill(launch, signal.SIGTERM)
    _, said = supervisor.communicate(timeout=30)
    assert (supervisor.returncode, said) == (0, "")


def _until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
