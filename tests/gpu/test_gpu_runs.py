"""What follows a training on a GPU: to be stopped and go on, to be evaluated, to be exported.

Each test's body runs on a CPU too, where there is no GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.golden import farthest, golden_losses, golden_tree, limit, logged_losses
from support.launching import REPOSITORY, start_ranks

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a run takes the GPU")
GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
ON_CPU = (NO_GPU, pytest.mark.thorough)  # tests/unit has the same of smaller runs
DEVICES = [pytest.param("cpu", marks=ON_CPU), pytest.param("gpu", marks=GPU)]
APART = 1e-2
"""Largest relative difference of evaluated losses; a guess until a GPU has been measured."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run in it, in float32."""
    made = tmp_path_factory.mktemp("golden")
    golden_losses(made, "float32")
    return made


def lope(*words: str | Path, hides_gpus: bool = False) -> str:
    """Return what a command prints, on this device or on a CPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if hides_gpus else {}
    ended = subprocess.run(
        [sys.executable, "-m", "lope_dist.cli", *map(str, words)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | hidden,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def evaluated(run: Path, data: Path, experts: str, **where: bool) -> dict[str, float]:
    """Return the loss per token of each row."""
    words = ("loss", run, data, "--experts", experts, "--limit", "12", "--json")
    rows: dict[str, Any] = json.loads(lope(*words, **where))["rows"]
    return {name: row["loss_per_token"] for name, row in rows.items()}


@pytest.mark.parametrize(
    ("device_name", "sent"),
    [
        pytest.param("cpu", signal.SIGTERM, marks=ON_CPU),
        pytest.param("gpu", signal.SIGTERM, marks=GPU),
        pytest.param("gpu", signal.SIGKILL, marks=GPU),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_committed_losses(
    device_name: str, sent: signal.Signals, tmp_path: Path
) -> None:
    """Asked to stop it saves and says so by its status; killed it goes back to the last file."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(golden_tree(tmp_path, "float32"), sort_keys=False))
    command = ["launch/train.py", "--config", str(recipe)]
    accelerator = {"DS_ACCELERATOR": "cuda"} if device_name == "gpu" else {}
    running = start_ranks(command, 1, folder=tmp_path, environment=accelerator)
    (process,) = running.processes
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (tmp_path / "run" / "metrics.jsonl").exists() and len(logged_losses(tmp_path)) >= 6:
            process.send_signal(sent)
            break
        time.sleep(0.005)
    (rank,) = running.wait()
    assert rank.status == (75 if sent == signal.SIGTERM else -sent), rank.output[-3000:]
    again = start_ranks([*command, "--resume"], 1, folder=tmp_path, environment=accelerator)
    (rank,) = again.wait()
    assert rank.status == 0, rank.output[-3000:]
    assert farthest(logged_losses(tmp_path), "float32") <= limit(device_name, "float32")


@pytest.mark.parametrize("device_name", DEVICES)
def test_a_run_and_its_purified_export_answer_alike_and_as_on_a_cpu(
    device_name: str, folder: Path
) -> None:
    run, data = folder / "run", folder / "alpaca.jsonl"
    unmeasured = shutil.copytree(run, folder / "unmeasured")
    here = evaluated(run, data, "masked,all,none")
    assert len(here) == len(set(here.values())) == 3
    if device_name == "gpu":
        there = evaluated(unmeasured, data, "masked,all,none", hides_gpus=True)
        assert here == pytest.approx(there, rel=APART)
    lope("export", run, "--format", "purified")
    exported = evaluated(run / "exports" / "purified", data, "masked")
    assert exported == {"masked": pytest.approx(here["masked"], rel=APART)}
