"""Gradient checkpointing under ZeRO-3: what was let go is there again in the backward pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.launching import train_tree
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]


def _losses(tiny_llama: Path, data: Path, folder: Path, ranks: int, model: dict) -> list[float]:
    folder.mkdir()
    tree = tiny_tree(tiny_llama, data, folder / "run")
    tree["model"] |= model
    tree["adapter"]["dropout"] = 0.0
    tree["noise"] = {"data": {"rate": 0.1}}
    stages = tree["train"]["stages"]
    stages["poison"] |= {
        "trainable": ["shared_a", "normal_b", "poison_b", "router"],
        "gradient_routing": True,
    }
    stages["finetune"] |= {"poison_scale": 2.0}
    if ranks > 1:
        tree["engine"] = {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}
    train_tree(tree, ranks)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_losses_equal_the_local_engines_without_it(
    tiny_llama: Path, alpaca_file: Path, tmp_path: Path
) -> None:
    expected = _losses(tiny_llama, alpaca_file, tmp_path / "local", 1, {})
    recomputing = {"gradient_checkpointing": True}
    found = _losses(tiny_llama, alpaca_file, tmp_path / "zero3", 2, recomputing)
    assert len(found) == 22
    assert found == pytest.approx(expected, rel=1e-4)
