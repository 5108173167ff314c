"""The supervisor with real processes that end in every way."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from lope_dist.core.exits import note_progress

SCRIPT = Path(__file__).resolve().parents[3] / "launch" / "supervise.py"


@pytest.fixture
def supervise(tmp_path: Path):
    """Return a function: (Python code of a launch, options) -> the supervisor's process."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *options: str) -> subprocess.Popen[str]:
        program = tmp_path / "train.py"
        program.write_text(
            "import os, signal, subprocess, sys, time\n"
            f"calls = open({str(tmp_path / 'calls')!r}, 'a+')\n"
            "calls.write(' '.join(sys.argv[1:]))\n"
            "calls.write('\\n'); calls.flush(); calls.seek(0)\n"
            "num = len(calls.readlines())\n"
            "def note(status): open(os.environ['LOPE_EXIT_FILE'], 'a').write("
            "f'1 {status} A reason.\\n')\n" + code
        )
        command = [sys.executable, str(SCRIPT), "--wait", "0.1", *options, "--"]
        process = subprocess.Popen(
            [*command, sys.executable, str(program), "--config", "c"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def module() -> ModuleType:
    specification = importlib.util.spec_from_file_location("supervise", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class _Clock:
    """Launches that fail, each after some seconds of a clock of their own."""

    is_stopped = came_to_something = False

    def __init__(self, seconds: float) -> None:
        self._seconds, self._now, self.num_launches = seconds, 0.0, 0

    def monotonic(self) -> float:
        return self._now

    def launch(self, resume: bool) -> tuple[int, str]:
        self.num_launches += 1
        assert self.num_launches < 100
        self._now += self._seconds
        return 69, "A peer is lost"

    def sleep(self, seconds: float) -> bool:
        self._now += seconds
        return False


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_a_failed_launch_is_resumed_until_it_is_done(supervise, tmp_path: Path) -> None:
    process = supervise("sys.exit(0 if num == 3 else 1)")
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert calls(tmp_path) == ["--config c", *["--config c --resume auto"] * 2]
    assert told.count("\n") == 2
    assert "The launch ended with status 1; restart 1 of 10 in 0 s." in told


def test_a_mistake_is_not_made_twice_even_behind_a_launcher_that_hides_it(
    supervise, tmp_path: Path
) -> None:
    process = supervise("note(69); note(2); sys.exit(1)")  # as torchrun: its own status is 1
    _, told = process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(calls(tmp_path)) == 1
    assert "Rank 1 ended with status 2: A reason.; no restart" in told


def test_a_killed_launcher_counts_as_failed_and_its_processes_are_ended(
    supervise, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    process = supervise(
        "if num == 2: sys.exit(0)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'],"
        " start_new_session=True)\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "left 1 processes" in told
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_a_launcher_that_ends_well_but_leaves_its_ranks_has_failed(
    supervise, tmp_path: Path
) -> None:
    process = supervise(
        "if num == 1: subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
    )
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(calls(tmp_path)) == 2


def test_it_gives_up_after_the_limit_with_the_last_status(supervise, tmp_path: Path) -> None:
    process = supervise("sys.exit(69)", "--max-restarts", "2")
    _, told = process.communicate(timeout=30)
    assert process.returncode == 69
    assert len(calls(tmp_path)) == 3
    assert "given up after 2 restarts in a row" in told


def test_a_launch_that_ran_long_enough_begins_the_row_anew(supervise, tmp_path: Path) -> None:
    process = supervise(
        "time.sleep(1.5 * (num == 2)); sys.exit(69)", "--max-restarts", "1", "--progress", "1.5"
    )
    process.communicate(timeout=30)
    assert len(calls(tmp_path)) == 3, "the second one did not count"


def test_a_launch_that_wrote_something_begins_the_row_anew(supervise, tmp_path: Path) -> None:
    progress = f"from {note_progress.__module__} import note_progress\n"
    process = supervise(
        f"{progress}if num == 2: note_progress()\nsys.exit(69)", "--max-restarts", "1"
    )
    process.communicate(timeout=60)
    assert len(calls(tmp_path)) == 3, "the second one did not count"


@pytest.mark.parametrize("seconds", [0, 300, 330, 900, 7199])
def test_tries_that_come_to_nothing_end_however_long_each_takes(
    module, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Ranks wait for `engine.timeout_s` for one that made a mistake, and load the model first."""
    clock = _Clock(seconds)
    monkeypatch.setattr(module, "time", clock)
    assert module.supervise(clock, 10, 7200.0, 5.0) == 69
    assert clock.num_launches == 11


@pytest.mark.parametrize("status", [247, 137])
def test_a_killed_rank_is_read_from_the_launchers_status(supervise, status: int) -> None:
    process = supervise(f"sys.exit({status})", "--max-restarts", "0")
    _, told = process.communicate(timeout=30)
    assert process.returncode == status
    assert f"status {status} (a rank was killed by SIGKILL); given up" in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_launch_and_is_the_end(supervise, tmp_path: Path, number: int) -> None:
    process = supervise(
        "def stop(*_): sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert len(calls(tmp_path)) == 1


def test_ranks_may_save_after_their_launcher_is_gone(supervise, tmp_path: Path) -> None:
    """`deepspeed` of one host ends at once by the signal; its ranks are given the grace."""
    saved = tmp_path / "saved"
    rank = (
        "import signal, sys, time\n"
        f"def save(*_): time.sleep(4); open({str(saved)!r}, 'w').close(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    process = supervise(f"subprocess.Popen([sys.executable, '-c', {rank!r}])\ntime.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert saved.exists()


def test_what_ignores_the_signal_is_killed_after_the_grace(supervise, tmp_path: Path) -> None:
    process = supervise(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)",
        "--grace",
        "0.5",
    )
    assert process.stdout.readline() == "ready\n"
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + signal.SIGKILL


def test_a_command_that_is_absent_is_told_and_not_tried_again() -> None:
    command = [sys.executable, str(SCRIPT), "--", "/no/such/launcher"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "'/no/such/launcher'" in done.stderr


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("torchrun launch/train.py --config c", " --resume auto"),
        ("torchrun launch/train.py --config c --resume auto", ""),
        ("torchrun launch/train.py --resume=auto --config c", ""),
        ("torchrun launch/eval.py r", ""),
    ],
)
def test_only_training_is_resumed_and_only_once(module, command: str, more: str) -> None:
    assert " ".join(module.resumed(command.split())) == command + more
