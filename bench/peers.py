"""Ranks that watch each other: what the store serves as they grow many, and who is named when.

Each simulated rank is a forked process with the real watching code and a real connection to a real
store, and without a model; eight are a host. A world of each size is healthy for `--beats-s`; then
one rank hangs. In a further world of that size one rank is killed and all others' collectives
fail. With `--thrice` ranks it is healthy as long before, and so is a third one, of which a whole
host is killed.

The last line is one JSON object; its `ratios`:

    slope         of log keys served a second over log ranks, healthy      target <= 1.1
    false_ends    ranks that ended while all were healthy, in all worlds   target <= 0
    unnamed       ranks that ended without the name of the one gone        target <= 0
    over_limit    largest time until the last rank ended, over its limit   target <= 1

Run: python bench/peers.py [--beats-s 60] [--sizes 64 128 256 512] [--thrice 256]
"""

from __future__ import annotations

import gc
import math
import mmap
import os
import signal
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import command, finish
from peers_rank import RANKS_A_HOST, be_rank

_STEP_S = 0.25
_START_S = 120.0
_PERIOD_S, _GRACE_S, _SLACK_S = 2.0, 5.0, 3.0
"""As in `engine/peers.py`; and what 512 processes on few cores take to print and end."""
_SHARED = {"go": 1, "step": 1, "hung": 1, "failed": 1, "over": 1}


class WorldOfRanks:
    """A number of simulated ranks; ends them when the context ends."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size, self._timeout_s = size, timeout_s
        each = dict.fromkeys(("ready", "served", "slowest"), size)
        self.shared: dict[str, np.ndarray] = {
            name: np.frombuffer(mmap.mmap(-1, 8 * length), dtype=np.float64)
            for name, length in (_SHARED | each).items()
        }
        self.shared["hung"][0] = -1
        self.pids: list[int] = []
        self.ended: dict[int, tuple[int, float]] = {}
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)

    def __enter__(self) -> WorldOfRanks:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(self.size):
            pid = os.fork()
            if pid == 0:
                be_rank(rank, self.size, port, self._timeout_s, self.folder, self.shared)
            self.pids.append(pid)
        began = time.monotonic()
        self.shared["go"][0] = 1  # they start together, as launchers start them
        while (self.shared["ready"] == 0).any():
            self.run(0.1)
            assert not self.ended, self.log(min(self.ended))
            assert time.monotonic() - began < _START_S, "the ranks do not come"
        self.start_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        for rank, pid in enumerate(self.pids):
            if rank not in self.ended:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._folder.cleanup()

    def run(self, seconds: float) -> None:
        """Let steps pass, and note who ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(_STEP_S, seconds))
            if self.shared["hung"][0] < 0 and not self.shared["failed"][0]:
                self.shared["step"][0] += 1
            self._reap()

    def run_to_the_end(self, limit_s: float) -> None:
        """The same until all have ended, for at most twice the limit."""
        end = time.monotonic() + 2 * limit_s
        while len(self.ended) < self.size and time.monotonic() < end:
            self.run(0.1)

    def log(self, rank: int) -> str:
        """Return what a rank printed."""
        return (self.folder / f"{rank}.log").read_text()

    def _reap(self) -> None:
        for rank, pid in enumerate(self.pids):
            if rank not in self.ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.ended[rank] = os.waitstatus_to_exitcode(status), time.monotonic()


def beat(world: WorldOfRanks, seconds: float) -> dict[str, float]:
    """Let a healthy world run; return what its store served."""
    world.run(2 * _PERIOD_S)  # what comes of the roll call is over
    world.shared["slowest"][:] = 0
    before, began = world.shared["served"].sum(), time.monotonic()
    world.run(seconds)
    served, passed_s = world.shared["served"].sum() - before, time.monotonic() - began
    return {
        "keys_per_s": served / passed_s,
        "slowest_answer_ms": 1e3 * float(world.shared["slowest"].max()),
        "false_ends": len(world.ended),
    }


def harm(world: WorldOfRanks, ranks: list[int], how: str, limit_s: float) -> dict[str, float]:
    """Harm some ranks; return when the last other one ended, and how many named none of them."""
    began = time.monotonic()
    others = [rank for rank in range(world.size) if rank not in ranks]
    if how == "hung":
        world.shared["hung"][0] = ranks[0]
        world.shared["step"][0] += 1
    else:
        for rank in ranks:
            os.kill(world.pids[rank], signal.SIGKILL)
        world.shared["failed"][0] = 1
    world.run_to_the_end(limit_s)
    ends = [world.ended[rank][1] - began for rank in others if rank in world.ended]
    names = [f"Rank {rank} (process {world.pids[rank]} on " for rank in ranks]
    named = [
        rank
        for rank in others
        if rank in world.ended
        and world.ended[rank][0] == 69
        and any(name in world.log(rank) for name in names)
    ]
    return {"last_end_s": max(ends, default=math.inf), "unnamed": len(others) - len(named)}


def measure(size: int, arguments: Any) -> dict[str, float]:
    """Return one size's row."""
    limits = {
        "hung": arguments.timeout_s + 2 * _PERIOD_S + _GRACE_S + _SLACK_S,
        "dead": 2 * _PERIOD_S + _GRACE_S + _SLACK_S,
        "host": 5 * _PERIOD_S + _GRACE_S + _SLACK_S,
    }
    victim = size - 3  # not of rank 0's host
    last_host = list(range(size - RANKS_A_HOST, size))
    row: dict[str, float] = {"ranks": size}
    with WorldOfRanks(size, arguments.timeout_s) as world:
        row |= {"start_s": world.start_s, **beat(world, arguments.beats_s)}
        if not world.ended:
            row |= _of("hung", harm(world, [victim], "hung", limits["hung"]), limits)
    deaths = {"dead": [victim]}
    if size == arguments.thrice:
        deaths["host"] = last_host
    for how, ranks in deaths.items():
        with WorldOfRanks(size, arguments.timeout_s) as world:
            if size == arguments.thrice:
                row["false_ends"] += beat(world, arguments.beats_s)["false_ends"]
            row |= _of(how, harm(world, ranks, how, limits[how]), limits)
    return row


def _of(how: str, harmed: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    return {
        f"{how}_s": harmed["last_end_s"],
        f"{how}_limit_s": limits[how],
        f"{how}_unnamed": harmed["unnamed"],
    }


def _filled(rows: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """Return the rows with the same columns."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("--beats-s", type=float, default=60.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--timeout-s", type=float, default=12.0, help="engine.timeout_s of a hang")
    parser.add_argument("--thrice", type=int, default=256, help="the size that is tried most")
    arguments = parser.parse_args()
    gc.collect()
    gc.freeze()  # pages that the collector does not touch stay shared
    rows = [measure(size, arguments) for size in arguments.sizes]
    logs = [(math.log(row["ranks"]), math.log(row["keys_per_s"])) for row in rows]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope if rows[1:] else 0.0
    kinds = ("hung", "dead", "host")
    over = [row[f"{k}_s"] / row[f"{k}_limit_s"] for row in rows for k in kinds if f"{k}_s" in row]
    finish(
        "peers",
        {
            "slope": slope,
            "false_ends": sum(row["false_ends"] for row in rows),
            "unnamed": sum(row.get(f"{kind}_unnamed", 0) for row in rows for kind in kinds),
            "over_limit": max(over),
        },
        {
            "slope": "<= 1.1",
            "false_ends": "<= 0",
            "unnamed": "<= 0",
            "over_limit": "<= 1",
        },
        {"sizes": {"rows": _filled(rows)}},
        vars(arguments),
    )


if __name__ == "__main__":
    main()
