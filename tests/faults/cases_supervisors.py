"""A supervisor that is killed or hung up, with a real run under it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import metrics, write_recipe
from faults.waits import LIMIT_S
from support.launching import REPOSITORY, processes_naming, rank_environment

from lope_dist.train.checkpoint.history import last_checkpoint

GROUP = "Supervisors that go"
STEPS = 60


def _recipe(folder: Path) -> Path:
    recipe = write_recipe(folder, engine__kind="local", train__stages__poison__epochs=40)
    recipe.write_text(recipe.read_text().replace("max_steps: 4", f"max_steps: {STEPS}", 1))
    return recipe


def _supervise(folder: Path, recipe: Path) -> subprocess.Popen[str]:
    (folder / "tmp").mkdir(exist_ok=True)
    train = [sys.executable, "launch/train.py", recipe, "--resume", "auto"]
    command = [sys.executable, "launch/supervise.py", "--wait", "1", "--", *train]
    return subprocess.Popen(
        [*map(str, command)],
        cwd=REPOSITORY,
        env=rank_environment(folder) | {"TMPDIR": str(folder / "tmp")},
        start_new_session=True,
        text=True,
    )


def _until_steps(folder: Path, num: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not (folder / "run" / "metrics.jsonl").exists() or len(metrics(folder)) < num:
        assert time.monotonic() < deadline, "no steps were made"
        time.sleep(0.05)


def _until_gone(recipe: Path) -> float:
    began = time.monotonic()
    while left := processes_naming(str(recipe)):
        assert time.monotonic() < began + LIMIT_S, left
        time.sleep(0.1)
    return round(time.monotonic() - began, 1)


def _litter(folder: Path) -> list[str]:
    return [path.name for path in (folder / "tmp").glob("lope-supervise-*")]


@case(
    "kill -9 of the supervisor",
    group=GROUP,
    states="The run under it writes a checkpoint and ends; no process and no temporary file is "
    "left.",
)
def _killed(folder: Path) -> dict[str, Any]:
    recipe = _recipe(folder)
    supervisor = _supervise(folder, recipe)
    _until_steps(folder, 5)
    supervisor.kill()
    supervisor.wait()
    seconds = _until_gone(recipe)
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert last.step == len(metrics(folder)), "not a step was lost"
    assert not _litter(folder)
    return {"ended_s": seconds}


@case(
    "kill -9 of the supervisor, and another at once",
    group=GROUP,
    states="A supervisor that is started while the old run still ends waits for it and goes on: "
    "the run is finished, each step logged once.",
)
def _succeeded(folder: Path) -> dict[str, Any]:
    recipe = _recipe(folder)
    first = _supervise(folder, recipe)
    _until_steps(folder, 5)
    first.kill()
    first.wait()
    second = _supervise(folder, recipe)
    assert second.wait(LIMIT_S) == 0
    steps = [(line["stage"], line["step"]) for line in metrics(folder)]
    assert steps == [*(("poison", i) for i in range(STEPS)), *(("finetune", i) for i in range(4))]
    assert not _litter(folder)
    return {"steps": len(steps)}


@case(
    "the supervisor's terminal is closed",
    group=GROUP,
    states="SIGHUP to the supervisor: the run writes a checkpoint, all ends with status 75.",
)
def _hung_up(folder: Path) -> dict[str, Any]:
    recipe = _recipe(folder)
    supervisor = _supervise(folder, recipe)
    _until_steps(folder, 5)
    os.kill(supervisor.pid, signal.SIGHUP)
    assert supervisor.wait(LIMIT_S) == 75
    _until_gone(recipe)
    last = last_checkpoint(folder / "run")
    assert last is not None
    assert last.step == len(metrics(folder))
    assert not _litter(folder)
    return {}
