"""Under ZeRO-3 packing is proved with the weights in parts, and all ranks settle the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.architectures import save_tiny
from support.launching import train_tree
from support.quick import quick
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("model_type", "packs"), quick([("gemma3_text", True), ("opt", False)], ("gemma3_text", True))
)
def test_two_ranks_settle_what_one_does(
    model_type: str, packs: bool, alpaca_file: Path, tmp_path: Path
) -> None:
    model = save_tiny(tmp_path / "model", model_type)
    losses = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        tree = tiny_tree(model, alpaca_file, folder / "run")
        tree["model"] |= {"quantization": "nf4", "gradient_checkpointing": ranks == 2}
        tree["data"] |= {"max_length": 512}
        tree["adapter"] |= {"dropout": 0.0}
        for stage in tree["train"]["stages"].values():
            stage["max_steps"] = 2
        if ranks > 1:
            tree["engine"] = {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}
        ended = train_tree(tree, ranks)
        settled = yaml.safe_load((folder / "run" / "run.yaml").read_text())["data"]["packing"]
        assert settled is packs
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        losses[ranks] = [json.loads(line)["loss"] for line in lines]
    assert ("data.packing is off" in ended[0].output) is not packs
    assert len(losses[2]) == 4
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
