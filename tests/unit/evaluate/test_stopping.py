"""Ctrl-C while ranks answer: rank 0 says so, the others are silent, whatever the launcher sends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lope_dist.core.errors import Interrupted
from lope_dist.evaluate.loaded.stopping import stopping_at_ctrl_c

_RANK = """
import os, signal, sys, time
from lope_dist.evaluate.loaded import stopping
from lope_dist.evaluate.loaded.stopping import stopping_at_ctrl_c
if sys.argv[1:] == ["interrupted"]:
    tell = stopping.tell
    def interrupted(text):
        os.kill(os.getpid(), signal.SIGTERM)
        tell(text)
    stopping.tell = interrupted
with stopping_at_ctrl_c("Two of four."):
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.01)
"""


def _ended(rank: int, *numbers: int, words: tuple[str, ...] = ()) -> tuple[int, str]:
    """Send a rank of two the signals; return its status and what it said."""
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", _RANK, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


def test_rank_0_says_it_before_the_launcher_ends_it() -> None:
    status, said = _ended(0, signal.SIGINT, signal.SIGTERM)
    assert status in (130, -signal.SIGTERM)
    assert said == "Stopped by Ctrl-C. Two of four.\n"


def test_rank_0_says_it_though_the_launcher_comes_between() -> None:
    ended = _ended(0, signal.SIGINT, words=("interrupted",))
    assert ended == (130, "Stopped by Ctrl-C. Two of four.\n")


def test_other_ranks_are_silent() -> None:
    assert _ended(1, signal.SIGINT) == (130, "")


def test_sigterm_alone_ends_a_rank_as_ever() -> None:
    assert _ended(0, signal.SIGTERM) == (-signal.SIGTERM, "")


def test_a_process_by_itself_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(Interrupted, match=r"^Stopped by Ctrl-C\.$"), stopping_at_ctrl_c(""):
        raise KeyboardInterrupt
