"""peft's baselines under ZeRO: sharded, they learn what one process learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support.baselines import BASELINES
from support.launching import run_ranks, succeed
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]

STAGES = {"finetune": {"trainable": ["adapter"], "lr": 0.01, "max_steps": 10}}


def _train(model: Path, data: Path, folder: Path, name: str, zero_stage: int) -> Path:
    folder.mkdir()
    tree = tiny_tree(model, data, folder / "run")
    tree["adapter"] = BASELINES[name]
    tree["data"]["packing"] = False
    tree["train"]["stages"] = STAGES
    if zero_stage:
        tree["engine"] = {"kind": "deepspeed", "zero_stage": zero_stage, "timeout_s": 60}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    arguments = ["launch/train.py", "--config", str(recipe)]
    succeed(run_ranks(arguments, 2 if zero_stage else 1, folder=folder))
    return folder / "run"


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "zero_stage"), [("adalora", 2), ("adalora", 3), ("p_tuning", 3), ("prefix_tuning", 2)]
)
def test_sharded_ranks_learn_what_one_process_learns(
    tiny_llama: Path, alpaca_file: Path, tmp_path: Path, name: str, zero_stage: int
) -> None:
    alone = _train(tiny_llama, alpaca_file, tmp_path / "local", name, 0)
    sharded = _train(tiny_llama, alpaca_file, tmp_path / "zero", name, zero_stage)
    expected = _losses(alone)
    assert len(expected) == 10
    assert _losses(sharded) == pytest.approx(expected, rel=1e-4)
    adapter = "checkpoints/1-finetune/adapter.safetensors"
    theirs, ours = load_file(alone / adapter), load_file(sharded / adapter)
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        # Pruned singular values too: every rank must have cut the same ones.
        assert ours[key].eq(0).equal(value.eq(0)), key
        assert ours[key].allclose(value, rtol=1e-3, atol=1e-5), key
