"""Time that stops, and workers that stand still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from faults.base import case
from faults.cases_hangs import PATIENCE_S
from faults.cases_stops import wait_for_step
from faults.runs import (
    assert_equals_undisturbed,
    assert_tells,
    distance,
    reference,
    start,
    write_recipe,
)
from faults.waits import LIMIT_S, assert_within
from support.launching import REPOSITORY, Running, rank_environment, succeed

from lope_dist.core.errors import EXIT_PEER_LOST

PAUSES, WORKERS = "Time that stops", "Workers that stand still"
PAUSE_S = 2.5 * PATIENCE_S
"""Longer than the silence limit, `engine.timeout_s` and the process group's first timeout."""


def _pause(running: Running, seconds: float) -> None:
    for process in running.processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    for process in running.processes:
        process.send_signal(signal.SIGCONT)


def _paused(folder: Path, moment: str, nth: int, pauses: tuple[float, ...]) -> dict[str, Any]:
    """Pause all ranks at once, beginning where one of them has stopped itself."""
    recipe = write_recipe(folder, engine__timeout_s=PATIENCE_S)
    running = start(recipe, 2, victim=1, moment=moment, nth=nth, harm="STOP")
    log = next(folder.glob("rank1-*.log"))
    while "struck at" not in log.read_text():
        assert running.processes[1].poll() is None, log.read_text()[-2000:]
        time.sleep(0.05)
    for seconds in pauses:
        _pause(running, seconds)
        time.sleep(0.5)
    succeed(running.wait(LIMIT_S))
    assert_equals_undisturbed(folder, 1, reference(folder, 2))
    gap = distance(folder, reference(folder, 2))
    assert gap == 0.0, gap
    return {"paused (s)": sum(pauses), "largest_difference": gap}


@case(
    "all processes are paused in a step",
    group=PAUSES,
    states=f"Both ranks are stopped for {PAUSE_S:g} s, with engine.timeout_s = {PATIENCE_S:g}, and "
    "continued, as a paused virtual machine or a closed lid does: the run goes on and ends in the "
    "undisturbed run, to the bit.",
    in_ci=True,
)
def _in_a_step(folder: Path) -> dict[str, Any]:
    return _paused(folder, "forward", 6, (PAUSE_S,))


@case("all processes are paused while loading", group=PAUSES, states="The same while loading.")
def _while_loading(folder: Path) -> dict[str, Any]:
    return _paused(folder, "load", 3, (PAUSE_S,))


@case("many short pauses", group=PAUSES, states="The same with five pauses, half a second apart.")
def _often(folder: Path) -> dict[str, Any]:
    return _paused(folder, "forward", 6, (PATIENCE_S,) * 5)


def _long_run(folder: Path, **changes: Any) -> Path:
    recipe = write_recipe(
        folder, engine__timeout_s=PATIENCE_S, train__stages__poison__epochs=40, **changes
    )
    recipe.write_text(recipe.read_text().replace("max_steps: 4", "max_steps: 400", 1))
    return recipe


def _stop_a_child(parent: int) -> int:
    """Stop the first child of a process that has more than one, once it has worked."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        children = psutil.Process(parent).children()
        working = [child for child in children if sum(child.cpu_times()[:2]) > 0.05]
        if len(children) > 1 and working:
            working[0].send_signal(signal.SIGSTOP)
            return working[0].pid
        assert time.monotonic() < deadline, "no workers came"
        time.sleep(0.02)


def _stopped_worker(folder: Path, num_ranks: int, **changes: Any) -> dict[str, Any]:
    recipe = _long_run(folder, data__workers=2, **changes)
    running = start(recipe, num_ranks)
    wait_for_step(folder, running)
    worker = _stop_a_child(running.processes[0].pid)
    began = time.monotonic()
    ended = running.wait(LIMIT_S)
    seconds = ended[0].ended - began
    assert ended[0].status == EXIT_PEER_LOST, ended[0].output[-3000:]
    sentence = f"A worker of data.workers = 2 stands still: process {worker} is stopped"
    for rank in ended:
        assert_tells(rank, sentence)
    assert [rank.status for rank in ended[1:]] == [EXIT_PEER_LOST] * (num_ranks - 1)
    assert_within(seconds, 2 * PATIENCE_S)
    return {"ended_s": round(seconds, 1)}


@case(
    "a stopped data worker, without DeepSpeed",
    group=WORKERS,
    states=f"SIGSTOP to a data worker with engine.timeout_s = {PATIENCE_S:g}: the run ends soon "
    "after half of it and names the worker.",
)
def _worker_local(folder: Path) -> dict[str, Any]:
    return _stopped_worker(folder, 1, engine__kind="local")


@case("a stopped data worker of two ranks", group=WORKERS, states="The same; both ranks name it.")
def _worker_of_two(folder: Path) -> dict[str, Any]:
    return _stopped_worker(folder, 2)


def _command_with_a_stopped_worker(folder: Path, what: str, *arguments: object) -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lope_dist.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        env=rank_environment(folder) | {"LOPE_DATA_CACHE": str(folder / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        worker = _stop_a_child(process.pid)
        began = time.monotonic()
        _, said = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == EXIT_PEER_LOST, said[-3000:]
    assert f"A worker of {what}" in said, said[-2000:]
    assert f"process {worker} is stopped" in said
    assert "Traceback" not in said
    return {"ended_s": round(time.monotonic() - began, 1)}


@case(
    "a stopped worker of a corpus build",
    group=WORKERS,
    states="SIGSTOP to a worker of `lope corpus build --workers 2`: it is named within 15 s, and "
    "the same command goes on.",
)
def _build_worker(folder: Path) -> dict[str, Any]:
    recipe, out = write_recipe(folder, train__stages__poison__epochs=400), folder / "corpus"
    command = ("corpus", "build", recipe, "--out", out, "--shard-examples", 4, "--workers", 2)
    return _command_with_a_stopped_worker(folder, "the build of", *command)


@case(
    "a stopped worker of the pass over the rows",
    group=WORKERS,
    states="The same of the processes that read and count the rows of `lope check`.",
)
def _pass_worker(folder: Path) -> dict[str, Any]:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    recipe, rows = write_recipe(folder), folder / "many.jsonl"
    row = {"instruction": "Say it " + "again " * 60, "output": "It. " * 40}
    with rows.open("w") as file:
        for number in range(60_000):
            file.write(json.dumps(row | {"input": str(number)}) + "\n")
    return _command_with_a_stopped_worker(
        folder, "the pass over the rows", "check", recipe, f"data.path={rows}"
    )
