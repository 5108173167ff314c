"""Signals, and two runs in one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import (
    assert_equals_undisturbed,
    assert_tells,
    distance,
    metrics,
    reference,
    start,
    train,
    write_recipe,
)
from faults.waits import LIMIT_S
from support.launching import (
    REPOSITORY,
    Running,
    processes_naming,
    rank_environment,
    start_deepspeed,
    succeed,
)

from lope_dist.train.checkpoint.history import last_checkpoint

SIGNALS = "Signals"
LOCKS = "Two runs in one folder"


def _stop_by(folder: Path, name: str) -> dict[str, Any]:
    recipe = write_recipe(folder)
    ended = train(recipe, 2, victim=1, moment="between", nth=2, harm=name)
    assert [rank.status for rank in ended] == [75, 75], ended[1].output[-2000:]
    assert_tells(ended[0], "Stopped by a signal after step 3 of stage 'poison'", "--resume auto")
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert (last.stage, last.step) == ("poison", 3)
    succeed(train(recipe, 2, attempt=1))
    assert_equals_undisturbed(folder, 2, reference(folder, 2))
    gap = distance(folder, reference(folder, 2))
    assert gap <= 1e-5, gap
    return {"largest_difference": gap}


@case(
    "sigterm",
    group=SIGNALS,
    states="SIGTERM to one rank: all ranks write a checkpoint after their step, exit with 75, and "
    "a resume ends in the undisturbed run.",
    in_ci=True,
)
def _sigterm(folder: Path) -> dict[str, Any]:
    return _stop_by(folder, "TERM")


@case("sigusr1", group=SIGNALS, states="The same with SIGUSR1, which Slurm can send ahead.")
def _sigusr1(folder: Path) -> dict[str, Any]:
    return _stop_by(folder, "USR1")


@case("sighup", group=SIGNALS, states="The same with SIGHUP, of a terminal that is closed.")
def _sighup(folder: Path) -> dict[str, Any]:
    return _stop_by(folder, "HUP")


def wait_for_step(folder: Path, running: Running) -> None:
    """Wait until a run has logged a step."""
    deadline = time.monotonic() + LIMIT_S
    while not (folder / "run" / "metrics.jsonl").exists() or not metrics(folder):
        assert running.processes[0].poll() is None, "ended before its first step"
        assert time.monotonic() < deadline, "no step was made"
        time.sleep(0.05)


def _under_launcher(folder: Path) -> tuple[Path, Running]:
    """Start a longer run under the real `deepspeed` launcher; return when it steps."""
    recipe = write_recipe(folder, train__stages__poison__epochs=40)
    tree = recipe.read_text().replace("max_steps: 4", "max_steps: 400", 1)
    recipe.write_text(tree)
    arguments = ["launch/train.py", "--config", str(recipe), "--resume", "auto"]
    running = start_deepspeed(arguments, 2, folder=folder)
    wait_for_step(folder, running)
    return recipe, running


def _assert_whole(folder: Path, recipe: Path) -> None:
    """Assert that soon no process of a run is left, and that its last step is saved."""
    deadline = time.monotonic() + LIMIT_S
    while processes_naming(str(recipe)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_naming(str(recipe))
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert last.step is not None
    assert len(metrics(folder)) == last.step, "not a step was lost"


@case(
    "sigterm-to-the-launcher",
    group=SIGNALS,
    states="SIGTERM to the process group of the real `deepspeed` launcher, which passes it on "
    "again: its ranks write a checkpoint and end; none is left over.",
)
def _sigterm_to_launcher(folder: Path) -> dict[str, Any]:
    recipe, running = _under_launcher(folder)
    began = time.monotonic()
    os.killpg(running.processes[0].pid, signal.SIGTERM)
    ended = running.wait(LIMIT_S)
    _assert_whole(folder, recipe)
    return {"status": ended[0].status, "ended_s": round(time.monotonic() - began, 1)}


@case(
    "sigusr1-under-the-launcher",
    group=SIGNALS,
    states="SIGUSR1 to one rank under the real `deepspeed` launcher: a checkpoint, and the "
    "launcher itself exits with 75.",
)
def _sigusr1_under_launcher(folder: Path) -> dict[str, Any]:
    recipe, running = _under_launcher(folder)
    own = [pid for pid, line in processes_naming(str(recipe)).items() if "deepspeed" not in line]
    assert len(own) == 2, processes_naming(str(recipe))
    os.kill(max(own), signal.SIGUSR1)
    (ended,) = running.wait(LIMIT_S)
    assert ended.status == 75, ended.output[-3000:]
    _assert_whole(folder, recipe)
    return {}


@case(
    "ctrl-c-under-the-launcher",
    group=SIGNALS,
    states="Ctrl-C in the terminal of the real `deepspeed` launcher, whose whole process group is "
    "sent SIGINT: not a step is lost, no traceback of a rank is shown, and none is left over.",
)
def _ctrl_c_under_launcher(folder: Path) -> dict[str, Any]:
    recipe, running = _under_launcher(folder)
    began = time.monotonic()
    os.killpg(running.processes[0].pid, signal.SIGINT)
    (ended,) = running.wait(LIMIT_S)
    _assert_whole(folder, recipe)
    assert_tells(ended, "Ctrl-C", "the checkpoint is whole, go on with --resume auto")
    assert "lope_dist/" not in ended.output, "no traceback of ours"
    return {"status": ended.status, "ended_s": round(time.monotonic() - began, 1)}


@case(
    "second-run",
    group=LOCKS,
    states="A second run into the folder of one that goes on is refused with its host and process "
    "and disturbs nothing; the lock of a killed run is no hindrance.",
    in_ci=True,
)
def _second_run(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder, engine__kind="local")
    first = start(recipe, 1, moment="forward", nth=6, harm="STOP")
    wait_for_step(folder, first)
    log = next(folder.glob("rank0-*.log"))
    while "struck at" not in log.read_text():
        time.sleep(0.05)
    process = first.processes[0]
    before = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    (second,) = train(recipe, 1, attempt=1)
    assert second.status == 2
    holder = f"process {process.pid} on {socket.gethostname()} since "
    assert_tells(second, f"is being written by {holder}")
    assert {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()} == before
    process.kill()
    first.wait(LIMIT_S)
    succeed(train(recipe, 1, attempt=2))
    assert_equals_undisturbed(folder, 3, reference(folder, 2))
    return {}


@case(
    "nobody reads what is said",
    group=SIGNALS,
    states="stdout and stderr of a run lead to a pipe whose reader is gone, as where Ctrl-C ends "
    "the `tee` behind it first; then SIGTERM: it trains on until then, writes a checkpoint and "
    "ends with status 75; its log says so.",
)
def _unheard(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder, engine__kind="local", train__stages__poison__epochs=40)
    recipe.write_text(recipe.read_text().replace("max_steps: 4", "max_steps: 400", 1))
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "lope_dist.cli", "train", str(recipe)],
        cwd=REPOSITORY,
        env=rank_environment(folder),
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    os.close(reader)
    wait_for_step(folder, Running([process], []))
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 75
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert len(metrics(folder)) == last.step, "not a step was lost"
    told = next((folder / "run" / "logs").glob("*.log")).read_text()
    assert told.count("The console takes no more (Broken pipe)") == 1
    return {}
