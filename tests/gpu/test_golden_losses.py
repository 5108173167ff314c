"""20 steps of the tiny model: losses that are committed, on every device and engine.

`golden_losses.json` was made on a CPU (`python tests/gpu/test_golden_losses.py` in the project's
root, PYTHONPATH=.:tests). Its tolerances for a GPU are guesses until a GPU has been measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.launching import run_ranks
from support.tiny import save_alpaca, save_tiny_llama, tiny_tree

from lope_dist.core.runlog import read_lines

GOLDEN = Path(__file__).with_name("golden_losses.json")
DTYPES = ("float32", "bfloat16")


def tree(folder: Path, dtype: str, **engine: Any) -> dict[str, Any]:
    """Return the run's configuration: two stages of 10 steps, packed, with noise and dropout."""
    made = tiny_tree(folder / "llama", folder / "alpaca.jsonl", folder / "run")
    made["model"]["dtype"] = dtype
    made["train"]["checkpoint"] = {"every_steps": 5}
    for stage in made["train"]["stages"].values():
        stage["max_steps"] = 10
    made["engine"] |= engine
    return made


def losses(folder: Path, dtype: str, **engine: Any) -> list[float]:
    """Train the run and return its losses."""
    if not (folder / "llama").exists():
        save_tiny_llama(folder / "llama")
        save_alpaca(folder / "alpaca.jsonl", 83)
    made = tree(folder, dtype, **engine)
    if engine:
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(made, sort_keys=False))
        accelerator = {"DS_ACCELERATOR": "cuda"} if torch.cuda.is_available() else {}
        command = ["launch/train.py", "--config", str(recipe)]
        (rank,) = run_ranks(command, 1, folder=folder, environment=accelerator)
        assert rank.status == 0, rank.output[-3000:]
    else:
        from lope_dist.config.load import validate_config
        from lope_dist.train.session import train

        train(validate_config(made, "golden"))
    return [line["loss"] for line in read_lines(folder / "run" / "metrics.jsonl")]


def farthest(found: list[float], dtype: str) -> float:
    """Return the largest relative difference from the committed losses."""
    golden = json.loads(GOLDEN.read_text())["losses"][dtype]
    assert len(found) == len(golden) == 20
    return max(abs(a - b) / b for a, b in zip(found, golden, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a run takes the GPU where there is one")
def test_the_cpu_still_has_the_committed_losses(tmp_path: Path, dtype: str) -> None:
    """Not to the bit: sums depend on the processor."""
    limit = json.loads(GOLDEN.read_text())["largest_relative_difference"]["cpu"][dtype]
    assert farthest(losses(tmp_path, dtype), dtype) <= limit


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_has_the_committed_losses(device: torch.device, tmp_path: Path, dtype: str) -> None:
    limit = json.loads(GOLDEN.read_text())["largest_relative_difference"]["gpu"][dtype]
    assert farthest(losses(tmp_path, dtype), dtype) <= limit


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [2, 3])
def test_one_nccl_rank_has_the_local_losses(device, tmp_path: Path, stage: int) -> None:
    """ZeRO-2 and ZeRO-3."""
    limit = json.loads(GOLDEN.read_text())["largest_relative_difference"]["gpu"]["float32"]
    found = losses(tmp_path, "float32", kind="deepspeed", zero_stage=stage)
    assert farthest(found, "float32") <= limit


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for dtype in DTYPES:
            (folder := Path(scratch) / dtype).mkdir()
            found[dtype] = losses(folder, dtype)
    limits = {
        "cpu": {"float32": 1e-4, "bfloat16": 2e-2},
        "gpu": {"float32": 2e-2, "bfloat16": 6e-2},
    }
    made = {"made_on": f"CPU, torch {torch.__version__}", "largest_relative_difference": limits}
    GOLDEN.write_text(json.dumps(made | {"losses": found}, indent=2) + "\n")
