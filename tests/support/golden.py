"""The run of 20 steps whose losses are committed in `tests/gpu/golden_losses.json`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
import yaml
from support.launching import run_ranks
from support.tiny import save_alpaca, save_tiny_llama, tiny_tree

from lope_dist.core.runlog import read_lines

GOLDEN = Path(__file__).parents[1] / "gpu" / "golden_losses.json"
_NAMES_A_CPU = ("model name", "cpu family", "model", "stepping")
DTYPES = ("float32", "bfloat16")


def golden_tree(folder: Path, dtype: str, **engine: Any) -> dict[str, Any]:
    """Return the run's configuration: two stages of 10 steps, packed, with noise and dropout.

    The model and the rows are written too, where they are not there yet.
    """
    if not (folder / "llama").exists():
        save_tiny_llama(folder / "llama")
        save_alpaca(folder / "alpaca.jsonl", 83)
    made = tiny_tree(folder / "llama", folder / "alpaca.jsonl", folder / "run")
    made["model"]["dtype"] = dtype
    made["train"]["checkpoint"] = {"every_steps": 5}
    for stage in made["train"]["stages"].values():
        stage["max_steps"] = 10
    made["engine"] |= engine
    return made


def golden_losses(folder: Path, dtype: str, **engine: Any) -> list[float]:
    """Train the run, under DeepSpeed with settings of an ``engine``, and return its losses."""
    return trained_losses(folder, golden_tree(folder, dtype, **engine))


def trained_losses(folder: Path, made: dict[str, Any]) -> list[float]:
    """Train a configuration of `golden_tree` and return its losses."""
    if made["engine"]["kind"] == "deepspeed":
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(made, sort_keys=False))
        on_gpu = torch.cuda.is_available()
        accelerator = {"DS_ACCELERATOR": "cuda"} if on_gpu else {}
        command = ["launch/train.py", "--config", str(recipe)]
        # A warm rank is forked from a process whose imports asked the GPU: CUDA has no fork.
        (rank,) = run_ranks(command, 1, folder=folder, environment=accelerator, is_warm=not on_gpu)
        assert rank.status == 0, rank.output[-3000:]
    else:
        from lope_dist.config.load import validate_config
        from lope_dist.train.session import train

        train(validate_config(made, "golden"))
    return logged_losses(folder)


def logged_losses(folder: Path) -> list[float]:
    """Return the losses that the run has logged so far."""
    return [line["loss"] for line in read_lines(folder / "run" / "metrics.jsonl")]


def limit(device: str, dtype: str) -> float:
    """Return the largest relative difference on the `same_cpu`, another `cpu` or a `gpu`."""
    return json.loads(GOLDEN.read_text())["largest_relative_difference"][device][dtype]


def this_machine() -> dict[str, str]:
    """Return the processor and the torch that sums depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    # The name alone is that of a brand on some hosts.
    name = ", ".join(f"{key} {facts[key]}" for key in _NAMES_A_CPU if key in facts)
    cpu = f"{name or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return {"cpu": cpu, "torch": torch.__version__}


def farthest(found: list[float], dtype: str) -> float:
    """Return the largest relative difference from the committed losses."""
    golden = json.loads(GOLDEN.read_text())["losses"][dtype]
    assert len(found) == len(golden) == 20
    return max(abs(a - b) / b for a, b in zip(found, golden, strict=True))
