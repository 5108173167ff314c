"""A checkpoint and an adapter that the first version with sealed checkpoints has written.

`first_format/` is a run of the tiny model on one process (LoPE of rank 2 on `q_proj`), stopped in
the middle of its first stage and at the end of its second.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lope_dist.adapters.lope import adapter_tensors
from lope_dist.config.load import validate_config
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import (
    Checkpoint,
    checkpoint_defect,
    checkpoint_in,
    load_optimizer,
    load_weights,
    read_state,
)

FOLDER = Path(__file__).parent / "first_format"


@pytest.fixture
def old_run(tmp_path: Path, tiny_llama: Path, alpaca_file: Path) -> Path:
    """A run's folder of that version, of the model and the rows of these tests."""
    folder = tmp_path / "run"
    shutil.copytree(FOLDER, folder / "checkpoints")
    tree = yaml.safe_load((FOLDER / "2-finetune" / "run.yaml").read_text())
    tree["model"]["name_or_path"], tree["data"]["path"] = str(tiny_llama), str(alpaca_file)
    (folder / "run.yaml").write_text(yaml.safe_dump(tree | {"output_dir": str(folder)}))
    return folder


def test_a_checkpoint_is_whole_and_read() -> None:
    middle = checkpoint_in(FOLDER / "1-poison-step-000002")
    assert isinstance(middle, Checkpoint)
    assert checkpoint_defect(middle) is None
    state = read_state(middle)
    assert (state["stage"], state["next_step"], state["steps"]) == ("poison", 2, 3)
    held = load_optimizer(middle)
    trained = {name for name in load_weights(middle) if any(name in key for key in held)}
    assert len(trained) == 4, "A and the poisoning expert's B of two layers"


def test_settings_that_came_later_are_no_difference() -> None:
    recorded = read_recorded((FOLDER / "2-finetune" / "run.yaml").read_bytes())
    assert recorded is not None
    assert validate_config(recorded, "first").model_dump(mode="json") == recorded
    assert recorded["adapter"]["rank"] == 2
    assert recorded["model"]["trust_remote_code"] is None, "false, as it was written then, is off"


def test_an_adapter_is_loaded_and_used(old_run: Path) -> None:
    run = load_run(old_run, progress=False)
    held = adapter_tensors(run.model)
    saved = load_weights(run.checkpoint)
    assert held.keys() == saved.keys()
    assert all(torch.equal(held[name].data, saved[name]) for name in saved)
    logits = run.model(torch.arange(8)[None]).logits
    assert bool(logits.isfinite().all())
