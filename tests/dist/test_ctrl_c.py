"""Ctrl-C under `lope launch`: a checkpoint, status 130, no traceback, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.launching import processes_naming, rank_environment
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(400)]


def _pressed(recipe: Path, when) -> tuple[int, str]:
    """Start two ranks, send their process group SIGINT once ``when`` is true; status and output."""
    command = [sys.executable, "-m", "lope_dist.cli", "launch", "train", "--ranks", "2"]
    log = recipe.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, str(recipe)],
            env=rank_environment(recipe.parent),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 150
        while not when() and time.monotonic() < end:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(120), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_launcher_waits_for_its_ranks_and_says_how_to_go_on(
    tiny_llama: Path, alpaca_file: Path, tmp_path: Path
) -> None:
    tree = tiny_tree(tiny_llama, alpaca_file, tmp_path / "run")
    tree["engine"] = {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}
    tree["train"]["stages"]["poison"]["max_steps"] = 4000
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    metrics = tmp_path / "run" / "metrics.jsonl"
    status, said = _pressed(
        recipe, lambda: metrics.exists() and metrics.read_text().count("\n") > 1
    )
    assert status == 130, said[-3000:]
    assert "Traceback" not in said
    assert "--resume auto" in said
    assert processes_naming(str(recipe)) == {}, "the launcher ends last"
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert checkpoint.name == f"1-poison-step-{steps[-1] + 1:06d}"
