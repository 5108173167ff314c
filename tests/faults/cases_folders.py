"""A run's folder that goes away or cannot be written, and litter of what was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults.base import NotRun, case
from faults.cases_disk import tmpfs
from faults.commands import finished_run, lope, refused, works
from faults.runs import write_recipe
from faults.waits import LIMIT_S
from support.launching import REPOSITORY, rank_environment

from lope_dist.train.stage import loop

GROUP = "Folders"


def _gone(folder: Path, harm: Callable[[Path], object]) -> dict[str, Any]:
    recipe = write_recipe(folder, engine__kind="local")
    run, real, steps = folder / "run", loop.lr_factor, [0]

    def factor(*arguments: Any) -> float:
        steps[0] += 1
        if steps[0] == 3:
            harm(run)
        return real(*arguments)

    loop.lr_factor = factor
    try:
        refused("train", recipe, told=("was removed or renamed while the run wrote there",))
    finally:
        loop.lr_factor = real
    works("train", recipe, "--resume")
    assert (run / "checkpoints" / "2-finetune").is_dir()
    return {}


@case(
    "the run's folder is removed",
    group=GROUP,
    states="`output_dir` is removed while a run writes there: it notices, saves its state anew, "
    "says what is true, and that resumes.",
)
def _removed(folder: Path) -> dict[str, Any]:
    return _gone(folder, shutil.rmtree)


@case("the run's folder is renamed", group=GROUP, states="The same where it is renamed.")
def _renamed(folder: Path) -> dict[str, Any]:
    return _gone(folder, lambda run: run.rename(run.with_name("moved")))


@case(
    "the folder of checkpoints is removed",
    group=GROUP,
    states="The same of `checkpoints` alone, with all that was in it.",
)
def _checkpoints_removed(folder: Path) -> dict[str, Any]:
    return _gone(folder, lambda run: shutil.rmtree(run / "checkpoints"))


@contextlib.contextmanager
def _read_only(place: Path) -> Iterator[None]:
    """Mount a folder onto itself, read-only: root may write where permissions forbid it."""
    for command in (["mount", "--bind", place, place], ["mount", "-o", "remount,ro,bind", place]):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotRun(f"a folder cannot be mounted read-only here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@case(
    "a run's folder that is read-only",
    group=GROUP,
    states="`lope loss`, `report`, `export` and `train --resume` of a run that cannot be written: "
    "one sentence each, before a weight is read; an export elsewhere works.",
)
def _read_only_run(folder: Path) -> dict[str, Any]:
    recipe, run = finished_run(folder), folder / "run"
    rows = folder.parent / "inputs" / "rows.jsonl"
    with _read_only(run):
        for command in (
            ("loss", run, rows, "--limit", 2),
            ("report", run),
            ("export", run, "--format", "purified"),
            ("train", recipe, "--resume", "train.stages.finetune.max_steps=5"),
        ):
            ended = lope(*command)
            assert ended.status == 2, ended.said[-2000:]
            assert "Traceback" not in ended.said, ended.said[-2000:]
            assert "Loading weights" not in ended.said, ended.said[-2000:]
        works("export", run, "--format", "purified", "--out", folder / "out")
    return {}


def _killed(folder: Path, *arguments: object, when: Callable[[], bool]) -> None:
    """Start a command of `lope` and kill it as soon as ``when`` holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lope_dist.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        env=rank_environment(folder),
    )
    deadline = time.monotonic() + LIMIT_S
    while not when():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@case(
    "a killed export",
    group=GROUP,
    states="What `kill -9` of an export leaves half-written is removed by the next one.",
)
def _export_litter(folder: Path) -> dict[str, Any]:
    finished_run(folder)
    out = folder / "exports" / "purified"
    command = ("export", folder / "run", "--format", "purified", "--out", out)
    _killed(folder, *command, when=lambda: any(out.parent.glob(".purified.*.partial/*")))
    assert list(out.parent.glob(".*.partial"))
    works(*command)
    assert [path.name for path in out.parent.iterdir()] == ["purified"]
    return {}


@case(
    "a full disk under the rows' cache",
    group=GROUP,
    states="Rows that do not fit into the cache's disk: one sentence, nothing half-written stays, "
    "and with room the same command works.",
)
def _full_cache(folder: Path) -> dict[str, Any]:
    recipe, cache = write_recipe(folder), folder / "cache"
    os.environ["LOPE_DATA_CACHE"] = str(cache)
    with tmpfs(cache, kib=16):
        refused("check", recipe, told=("No space left", "LOPE_DATA_CACHE"))
        left = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]
        assert not left, left
    works("check", recipe)
    return {}


@case(
    "a full disk under a corpus",
    group=GROUP,
    states="The same of `lope corpus build`: what was whole stays, and the build goes on.",
)
def _full_corpus(folder: Path) -> dict[str, Any]:
    recipe, out = write_recipe(folder), folder / "corpus"
    with tmpfs(out, kib=60):
        command = ("corpus", "build", recipe, "--out", out, "--shard-examples", 16)
        refused(*command, told=("No space left",))
        assert not list(out.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(out)], check=True)
        works(*command)
        works("corpus", "verify", out)
    return {}
