"""Ranks that hang and ranks that never come: the others end in time and name them."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import assert_tells, start, write_recipe
from faults.waits import LIMIT_S, assert_none_left, assert_within
from support.launching import Rank

from lope_dist.core.errors import EXIT_PEER_LOST

HANGS = "Hung and missing ranks"
PATIENCE_S = 12.0
"""`engine.timeout_s` of these runs: their ranks come together within it on a busy machine."""


def _hang(folder: Path, harm: str, moment: str, nth: int) -> tuple[list[Rank], float]:
    recipe = write_recipe(folder, engine__timeout_s=PATIENCE_S)
    running = start(recipe, 3, victim=2, moment=moment, nth=nth, harm=harm)
    log = folder / next(p.name for p in folder.glob("rank2-*.log"))
    while "struck at" not in log.read_text():
        assert running.processes[2].poll() is None, log.read_text()[-2000:]
        time.sleep(0.05)
    began = time.monotonic()
    ended = running.wait(LIMIT_S, stopped={2})
    for rank in ended[:2]:
        assert rank.status == EXIT_PEER_LOST, rank.output[-3000:]
        assert_tells(rank, f"Rank 2 (process {running.processes[2].pid} on {socket.gethostname()})")
    assert_none_left(folder)
    return ended, max(rank.ended for rank in ended[:2]) - began


@case(
    "sigstop",
    group=HANGS,
    states=f"A rank that is stopped in a step: with engine.timeout_s = {PATIENCE_S:g} the others "
    "end within it and name the rank, its process and its host.",
    in_ci=True,
)
def _sigstop(folder: Path) -> dict[str, Any]:
    ended, seconds = _hang(folder, "STOP", "forward", 3)
    assert_tells(ended[0], "gave no sign of life for 6 s")
    assert_within(seconds, PATIENCE_S)
    return {"others_ended_s": round(seconds, 1)}


@case(
    "sigstop-while-loading",
    group=HANGS,
    states="The same while the base model is read.",
)
def _sigstop_loading(folder: Path) -> dict[str, Any]:
    _, seconds = _hang(folder, "STOP", "load", 3)
    assert_within(seconds, PATIENCE_S)
    return {"others_ended_s": round(seconds, 1)}


@case(
    "hang",
    group=HANGS,
    states="A rank that lives and does not come to where the others wait (its data never comes): "
    "they end after engine.timeout_s and name it.",
)
def _python_hang(folder: Path) -> dict[str, Any]:
    ended, seconds = _hang(folder, "hang", "batch", 3)
    assert_tells(ended[0], "hangs: it lives, and has not come to where the others have waited")
    assert_within(seconds, PATIENCE_S + 10)
    return {"others_ended_s": round(seconds, 1)}


def _absent(folder: Path, rank: int) -> tuple[list[Rank], float]:
    recipe = write_recipe(folder, engine__timeout_s=PATIENCE_S)
    began = time.monotonic()
    ended = start(recipe, 3, absent={rank}).wait(LIMIT_S)
    assert [r.status for r in ended] == [EXIT_PEER_LOST] * 2, ended[0].output[-3000:]
    assert not (folder / "run").exists()
    return ended, time.monotonic() - began


@case(
    "rank-never-starts",
    group=HANGS,
    states="A rank that never starts: the others end after engine.timeout_s and name it and the "
    "host where it belongs.",
)
def _never_starts(folder: Path) -> dict[str, Any]:
    ended, seconds = _absent(folder, 1)
    for rank in ended:
        assert_tells(rank, f"Rank 1 (on {socket.gethostname()}) did not start within")
    return {"ended_s": round(seconds, 1)}


@case(
    "rank-0-never-starts",
    group=HANGS,
    states="The same with rank 0, which keeps the rendezvous.",
)
def _rank_0_never_starts(folder: Path) -> dict[str, Any]:
    ended, seconds = _absent(folder, 0)
    for rank in ended:
        assert_tells(rank, "cannot use the rendezvous at 127.0.0.1:", "rank 0", "did not answer")
    return {"ended_s": round(seconds, 1)}
