"""A rank is lost while a base that is sharded answers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from faults.base import case
from faults.cases_scores import _tasks
from faults.runs import reference
from faults.waits import LIMIT_S
from support.launching import Rank, start_ranks, succeed

ANSWERS = "Answers"
_TIMEOUT_S = 20
_HARMS = {"killed": "SIGKILL", "hung": "SIGSTOP", "stopped by a signal": "SIGTERM"}


def _ask(folder: Path, words: list[str], signal: str | None) -> tuple[list[Rank], float]:
    """Run a command on two ranks, rank 1 harmed at its 30th gather; return how they ended."""
    words = [*words, "--base", "sharded", "--timeout", str(_TIMEOUT_S)]
    worker = "tests/faults/workers/harmed_answers.py"
    arguments = [worker, "1", "30" if signal else "-1", signal or "SIGKILL", *words]
    start = time.monotonic()
    running = start_ranks(arguments, 2, folder=folder)
    ended = running.wait(LIMIT_S, stopped={1} if signal == "SIGSTOP" else ())
    return ended, time.monotonic() - start


def _assert_ended(ended: list[Rank]) -> None:
    assert ended[0].status == 69, ended[0].output[-3000:]
    assert "Rank 1 (process" in ended[0].output, ended[0].output[-3000:]


def _evaluated(signal: str) -> Any:
    def harm(folder: Path) -> dict[str, Any]:
        run = folder / "run"
        shutil.copytree(reference(folder, 2) / "run", run)
        words = ["eval", str(run), "--tasks", "bytes_choice", "--experts", "masked"]
        words += ["--include-path", str(_tasks(folder)), "--batch-size", "2"]
        ended, seconds = _ask(folder, words, signal)
        _assert_ended(ended)
        assert not (run / "results.json").exists()
        assert list((run / "answers").rglob("*.jsonl")), "what was answered is kept"
        succeed(_ask(folder, words, None)[0])
        row = json.loads((run / "results.json").read_text())["rows"][0]
        assert 0 <= row["tasks"]["bytes_choice"]["acc"] <= 1
        return {"ended after (s)": round(seconds, 1)}

    return harm


def _generated(signal: str) -> Any:
    def harm(folder: Path) -> dict[str, Any]:
        run = reference(folder, 2) / "run"
        words = ["generate", str(run), "Say a word", "Say another", "--max-new-tokens", "32"]
        ended, seconds = _ask(folder, words, signal)
        _assert_ended(ended)
        return {"ended after (s)": round(seconds, 1)}

    return harm


for _how, _signal in _HARMS.items():
    case(
        f"a rank is {_how} during a sharded evaluation",
        group=ANSWERS,
        states=f"Rank 1 of 2 is {_how} between two gathers: rank 0 ends within the limit and names "
        "it, nothing half is written, and the next call goes on from what was answered.",
    )(_evaluated(_signal))
    case(
        f"a rank is {_how} during `lope generate`",
        group=ANSWERS,
        states=f"Rank 1 of 2 is {_how} between two gathers of a decode step: rank 0 ends within "
        "the limit and names it.",
    )(_generated(_signal))
