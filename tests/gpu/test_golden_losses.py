"""20 steps of the tiny model: losses that are committed, on every device and engine.

`golden_losses.json` was made on a CPU (`python tests/gpu/test_golden_losses.py` in the project's
root, PYTHONPATH=.:tests) and names it and its torch: there those of float32 are held to 1e-5. Its
tolerances for a GPU are guesses until a GPU has been measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden import (
    DTYPES,
    GOLDEN,
    farthest,
    golden_losses,
    golden_tree,
    limit,
    this_machine,
    trained_losses,
)
from support.quick import quick


@pytest.mark.parametrize("dtype", quick(DTYPES, "float32"))
@pytest.mark.skipif(torch.cuda.is_available(), reason="a run takes the GPU where there is one")
def test_the_cpu_still_has_the_committed_losses(tmp_path: Path, dtype: str) -> None:
    """Where they were made to 1e-5; on others not, for sums depend on processor and torch."""
    made_here = json.loads(GOLDEN.read_text())["made_on"] == this_machine()
    allowed = limit("same_cpu" if made_here else "cpu", dtype)
    assert farthest(golden_losses(tmp_path, dtype), dtype) <= allowed


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_has_the_committed_losses(device: torch.device, tmp_path: Path, dtype: str) -> None:
    assert farthest(golden_losses(tmp_path, dtype), dtype) <= limit("gpu", dtype)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "engine",
    [{"zero_stage": 2}, {"zero_stage": 3}, {"zero_stage": 3, "offload": "both"}],
    ids=str,
)
def test_one_nccl_rank_has_the_local_losses(
    device: torch.device, tmp_path: Path, engine: dict[str, Any]
) -> None:
    found = golden_losses(tmp_path, "float32", kind="deepspeed", **engine)
    assert farthest(found, "float32") <= limit("gpu", "float32")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "gradient_checkpointing", True),
        ("model", "attention", "eager"),
        ("model", "kernels", "none"),
        ("data", "packing", False),
    ],
)
def test_ways_to_compute_change_no_loss(
    device: torch.device, tmp_path: Path, section: str, key: str, value: Any
) -> None:
    tree = golden_tree(tmp_path, "float32")
    tree[section][key] = value
    found = trained_losses(tmp_path, tree)
    assert farthest(found, "float32") <= limit("gpu", "float32")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for dtype in DTYPES:
            (folder := Path(scratch) / dtype).mkdir()
            found[dtype] = golden_losses(folder, dtype)
    limits = {
        "same_cpu": {"float32": 1e-5, "bfloat16": 2e-2},
        "cpu": {"float32": 1e-4, "bfloat16": 2e-2},
        "gpu": {"float32": 2e-2, "bfloat16": 6e-2},
    }
    made = {"made_on": this_machine(), "largest_relative_difference": limits}
    GOLDEN.write_text(json.dumps(made | {"losses": found}, indent=2) + "\n")
