"""Small runs for the cases: recipes, launches, what a run must have become."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import yaml
from faults.waits import LIMIT_S
from safetensors.torch import load_file
from support.launching import Rank, Running, start_ranks, succeed
from support.tiny import save_alpaca, save_tiny_llama, tiny_tree

from lope_dist.core.locks import file_lock
from lope_dist.core.runlog import read_lines
from lope_dist.train.checkpoint.history import last_checkpoint

STAGES = ("poison", "finetune")
NUM_STEPS = 4
"""Optimizer steps of each stage; a checkpoint after every second."""
WORKER = "tests/faults/workers/harmed_train.py"


def write_recipe(folder: Path, cache: Path | None = None, **changes: Any) -> Path:
    """Write the cases' recipe: the tiny model, short stages, its run in ``folder``/run.

    Model and rows are in ``cache``, by default the parent folder. ``changes`` are values by
    dotted key with `__` for the dots.
    """
    inputs = _inputs(cache or folder.parent)
    tree = tiny_tree(inputs / "model", inputs / "rows.jsonl", folder / "run")
    tree["engine"] = {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}
    tree["train"]["checkpoint"] = {"every_steps": 2, "keep_last": 2}
    for stage in STAGES:
        tree["train"]["stages"][stage]["max_steps"] = NUM_STEPS
    for key, value in changes.items():
        *path, last = key.split("__")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    return recipe


def start(
    recipe: Path,
    num_ranks: int,
    *overrides: str,
    attempt: int = 0,
    victim: int = 0,
    moment: str = "-",
    nth: int = 1,
    harm: str = "none",
    absent: Collection[int] = (),
) -> Running:
    """Start a run's ranks, one of which will be harmed; it resumes what there is."""
    folder = recipe.parent
    settings = [str(victim), moment, str(nth), harm]
    arguments = [WORKER, str(recipe), str(folder / f"attempt{attempt}"), *settings, *overrides]
    return start_ranks(arguments, num_ranks, folder=folder, absent=absent)


def train(recipe: Path, num_ranks: int, *overrides: str, **settings: Any) -> list[Rank]:
    """Run `start` to its end."""
    return start(recipe, num_ranks, *overrides, **settings).wait(LIMIT_S)


def reference(folder: Path, num_ranks: int) -> Path:
    """Return a run under ZeRO-3 that nothing has disturbed, made once for all cases."""
    cache = folder.parent / f"reference-{num_ranks}"
    with file_lock(Path(f"{cache}.lock")):
        if not (cache / "done").exists():
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir()
            succeed(train(write_recipe(cache), num_ranks))
            (cache / "done").touch()
    return cache


def adapter(folder: Path, stage: str = "2-finetune") -> dict[str, torch.Tensor]:
    """Return the adapter that a run in ``folder``/run has ended with."""
    return load_file(folder / "run" / "checkpoints" / stage / "adapter.safetensors")


def distance(folder: Path, expected: Path) -> float:
    """Return the largest difference between two runs' final adapters, in any weight."""
    own, other = adapter(folder), adapter(expected)
    assert own.keys() == other.keys()
    return max(float((own[name] - other[name]).abs().max()) for name in own)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the run's logged steps."""
    return list(read_lines(folder / "run" / "metrics.jsonl"))


def journal(folder: Path, attempt: int) -> dict[tuple[str, int], list[int]]:
    """Return the examples of each step that an attempt began, over its ranks, sorted."""
    steps: dict[tuple[str, int], list[int]] = {}
    for path in folder.glob(f"attempt{attempt}-rank*.jsonl"):
        for line in read_lines(path):
            steps.setdefault((line["stage"], line["step"]), []).extend(line["ids"])
    return {key: sorted(ids) for key, ids in steps.items()}


def all_steps() -> list[tuple[str, int]]:
    """Return every step of a run, in order."""
    return [(stage, step) for stage in STAGES for step in range(NUM_STEPS)]


def assert_equals_undisturbed(folder: Path, attempts: int, expected: Path) -> None:
    """Assert that a run of several attempts is the one that nothing has disturbed.

    Each attempt goes on where its checkpoint was; what of the one before lies behind that was
    made again.
    """
    sequence: dict[tuple[str, int], list[int]] = {}
    for attempt in range(attempts):
        sequence |= journal(folder, attempt)
    assert sequence == journal(expected, 0)
    found, wanted = metrics(folder), metrics(expected)
    assert [(line["stage"], line["step"]) for line in found] == all_steps()
    for own, other in zip(found, wanted, strict=True):
        assert own["tokens"] == other["tokens"]
        assert abs(own["loss"] - other["loss"]) <= 1e-4 * abs(other["loss"]), (own, other)
    state = json.loads((folder / "run" / "state.json").read_text())
    assert state["status"] == "finished"
    assert not list((folder / "run" / "checkpoints").glob(".*"))


def _inputs(cache: Path) -> Path:
    folder = cache / "inputs"
    with file_lock(Path(f"{folder}.lock")):
        if not (folder / "rows.jsonl").exists():
            save_tiny_llama(folder / "model")
            save_alpaca(folder / "rows.jsonl", 83)
    return folder


NEWEST, BEFORE = "2-finetune-step-000003", "2-finetune-step-000002"
"""The checkpoints in the middle of a stage that `stopped` leaves."""
ZERO_TO_LOCAL = ("engine.kind=local",)
"""Overrides that let a run go on without DeepSpeed."""


def stopped(folder: Path, **changes: Any) -> Path:
    """Leave a run that SIGTERM stopped after three steps of the second stage; return its recipe.

    On two ranks, or on one without DeepSpeed.
    """
    recipe = write_recipe(folder, **changes)
    num_ranks = 1 if changes.get("engine__kind") == "local" else 2
    ended = train(recipe, num_ranks, moment="between", nth=6, harm="TERM")
    assert [rank.status for rank in ended] == [75] * num_ranks, ended[0].output[-3000:]
    return recipe


def last_told(run: Path) -> tuple[str | None, str]:
    """Return which checkpoint a resume would take, and what it tells."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        last = last_checkpoint(run)
    return None if last is None else last.folder.name, told.getvalue()


def assert_tells(rank: Rank, *parts: str) -> None:
    """Assert that a rank has said all of ``parts``."""
    for part in parts:
        assert part in rank.output, f"{part!r} is not in:\n{rank.output[-3000:]}"
