"""Signals, hung ranks, two runs in one folder, and steps that are not finite."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import (
    WORKER,
    adapter,
    assert_equals_undisturbed,
    assert_tells,
    distance,
    metrics,
    reference,
    start,
    train,
    write_recipe,
)
from support.launching import (
    Rank,
    Running,
    processes_naming,
    run_ranks,
    start_deepspeed,
    succeed,
)

from lope_dist.core.runlog import read_json
from lope_dist.train.history import last_checkpoint

SIGNALS = "Signals"
HANGS = "Hung and missing ranks"
LOCKS = "Two runs in one folder"
NUMBERS = "Steps that are not finite"
PATIENCE_S = 12.0
"""`engine.timeout_s` of the hung runs: their ranks come together within it on a busy machine."""


def _stop_by(folder: Path, name: str) -> dict[str, Any]:
    recipe = write_recipe(folder)
    ended = train(recipe, 3, victim=1, moment="between", nth=2, harm=name)
    assert [rank.status for rank in ended] == [75, 75, 75], ended[1].output[-2000:]
    assert_tells(ended[0], "Stopped by a signal after step 3 of stage 'poison'", "--resume auto")
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert (last.stage, last.step) == ("poison", 3)
    succeed(train(recipe, 3, attempt=1))
    assert_equals_undisturbed(folder, 2, reference(folder, 3))
    gap = distance(folder, reference(folder, 3))
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


def _wait_for_step(folder: Path, running: Running, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not (folder / "run" / "metrics.jsonl").exists() or not metrics(folder):
        assert running.processes[0].poll() is None, "ended before its first step"
        assert time.monotonic() < deadline, "no step was made"
        time.sleep(0.05)


def _under_launcher(folder: Path, name: str) -> tuple[Path, Running]:
    """Start a longer run under the real `deepspeed` launcher; return when it steps."""
    recipe = write_recipe(folder, train__stages__poison__epochs=40)
    tree = recipe.read_text().replace("max_steps: 4", "max_steps: 400", 1)
    recipe.write_text(tree)
    arguments = [WORKER, str(recipe), str(folder / name), "0", "-", "1", "none"]
    running = start_deepspeed(arguments, 2, folder=folder)
    _wait_for_step(folder, running)
    return recipe, running


@case(
    "sigterm-to-the-launcher",
    group=SIGNALS,
    states="SIGTERM to the process group of the real `deepspeed` launcher, which passes it on "
    "again: its ranks write a checkpoint and end; none is left over.",
)
def _sigterm_to_launcher(folder: Path) -> dict[str, Any]:
    recipe, running = _under_launcher(folder, "attempt0")
    began = time.monotonic()
    os.killpg(running.processes[0].pid, signal.SIGTERM)
    ended = running.wait(60)
    while processes_naming(str(recipe)) and time.monotonic() < began + 40:
        time.sleep(0.1)
    assert not processes_naming(str(recipe))
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert last.step is not None
    assert len(metrics(folder)) == last.step, "not a step was lost"
    return {"status": ended[0].status, "ended_s": round(time.monotonic() - began, 1)}


@case(
    "sigusr1-under-the-launcher",
    group=SIGNALS,
    states="SIGUSR1 to one rank under the real `deepspeed` launcher: a checkpoint, and the "
    "launcher itself exits with 75.",
)
def _sigusr1_under_launcher(folder: Path) -> dict[str, Any]:
    recipe, running = _under_launcher(folder, "attempt0")
    own = [pid for pid, line in processes_naming(str(recipe)).items() if "deepspeed" not in line]
    assert len(own) == 2, processes_naming(str(recipe))
    os.kill(max(own), signal.SIGUSR1)
    (ended,) = running.wait(60)
    assert ended.status == 75, ended.output[-3000:]
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert len(metrics(folder)) == last.step
    assert not processes_naming(str(recipe))
    return {}


def _hang(folder: Path, harm: str, moment: str, nth: int) -> tuple[list[Rank], float]:
    recipe = write_recipe(folder, engine__timeout_s=PATIENCE_S)
    running = start(recipe, 3, victim=2, moment=moment, nth=nth, harm=harm)
    log = folder / next(p.name for p in folder.glob("rank2-*.log"))
    while "struck at" not in log.read_text():
        assert running.processes[2].poll() is None, log.read_text()[-2000:]
        time.sleep(0.05)
    began = time.monotonic()
    ended = running.wait(90, stopped={2})
    for rank in ended[:2]:
        assert rank.status == 2, rank.output[-3000:]
        assert_tells(rank, f"Rank 2 (process {running.processes[2].pid} on {socket.gethostname()})")
    assert not processes_naming(str(folder))
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
    assert seconds < PATIENCE_S, seconds
    return {"others_ended_s": round(seconds, 1)}


@case(
    "sigstop-while-loading",
    group=HANGS,
    states="The same while the base model is read.",
)
def _sigstop_loading(folder: Path) -> dict[str, Any]:
    _, seconds = _hang(folder, "STOP", "load", 3)
    assert seconds < PATIENCE_S, seconds
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
    assert seconds < PATIENCE_S + 10, seconds
    return {"others_ended_s": round(seconds, 1)}


def _absent(folder: Path, rank: int) -> tuple[list[Rank], float]:
    recipe = write_recipe(folder, engine__timeout_s=PATIENCE_S)
    began = time.monotonic()
    ended = start(recipe, 3, absent={rank}).wait(120)
    assert [r.status for r in ended] == [2, 2], ended[0].output[-3000:]
    assert not (folder / "run").exists()
    return ended, time.monotonic() - began


@case(
    "rank-never-starts",
    group=HANGS,
    states="A rank that never starts: the others end after engine.timeout_s and name it and the "
    "host where it belongs.",
    in_ci=True,
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
        assert_tells(rank, "Rank 0, which keeps the rendezvous at 127.0.0.1:", "did not answer")
    return {"ended_s": round(seconds, 1)}


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
    _wait_for_step(folder, first)
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
    first.wait()
    succeed(train(recipe, 1, attempt=2))
    assert_equals_undisturbed(folder, 3, reference(folder, 2))
    return {}


def _spoiled(folder: Path, num_ranks: int, what: str, *overrides: str) -> list[Rank]:
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        write_recipe(folder)
    output = folder / "-".join([what, str(num_ranks), *overrides]).replace("/", "_")
    arguments = ["tests/dist/workers/nan_on_rank_1.py", str(recipe), str(output), what]
    return run_ranks([*arguments, *overrides], num_ranks, folder=folder)


@case(
    "nan-stops",
    group=NUMBERS,
    states="A loss, or a gradient, that is NaN on one rank ends all ranks before its step, with "
    "the examples' ids.",
)
def _nan_stops(folder: Path) -> dict[str, Any]:
    for what, cause in (("loss", "the loss is"), ("gradient", "the gradient's norm is")):
        ended = _spoiled(folder, 2, what)
        assert [rank.status for rank in ended] == [2, 2], ended[0].output[-2000:]
        for rank in ended:
            assert_tells(rank, "Step 3", cause, "; examples [", "train.max_skipped_steps = 0")
    return {}


@case(
    "nan-skipped",
    group=NUMBERS,
    states="With train.max_skipped_steps = 1 such a step is left out, under ZeRO-2, ZeRO-3 and "
    "offload alike: the run ends as if it had never been made.",
)
def _nan_skipped(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder, train__max_skipped_steps=1)
    # steps 0 to 2 of each stage, with the schedule of all four: the spoiled one is the last
    expected = _adapter_without_step_3(recipe, folder)
    largest = 0.0
    for what in ("loss", "gradient"):
        for kind in ("zero_stage=2", "zero_stage=3", "offload=both"):
            override = f"engine.{kind}"
            ended = _spoiled(folder, 2, what, override)
            succeed(ended)
            assert_tells(ended[0], "Skipped (1 of train.max_skipped_steps = 1): Step 3")
            run = folder / f"{what}-2-{override}"
            (skipped,) = read_json(run / "state.json")["progress"]["skipped_steps"]
            assert skipped["step"] == 3
            assert 0 < len(skipped["examples"]) <= 8
            (folder / "run").symlink_to(run)
            own = adapter(folder)
            (folder / "run").unlink()
            gap = max(float((own[n] - expected[n]).abs().max()) for n in own)
            assert gap <= 1e-5, (what, kind, gap)
            largest = max(largest, gap)
    return {"largest_difference": largest}


def _adapter_without_step_3(recipe: Path, folder: Path) -> dict:
    """Return the adapter of a run whose loss alone is NaN in step 3, without DeepSpeed."""
    arguments = ["tests/faults/workers/leave_out.py", str(recipe), str(folder / "run"), "3"]
    succeed(run_ranks([*arguments, "engine.kind=local"], 1, folder=folder))
    own = adapter(folder)
    (folder / "run").rename(folder / "left-out")
    return own
