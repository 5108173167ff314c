"""Validation under ZeRO: training goes on to the bit, and ranks agree with the local engine.

All runs begin with another one's adapter (`adapter.init_from`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.launching import run_ranks, succeed, train_tree
from support.tiny import save_alpaca, tiny_tree
from torch import Tensor

from lope_dist.config.load import validate_config
from lope_dist.evaluate.losses.measure import LossRequest, measure_losses
from lope_dist.train.checkpoint.choice import choose_checkpoint
from lope_dist.train.checkpoint.folder import checkpoint_at, read_state
from lope_dist.train.session import train

pytestmark = [pytest.mark.dist, pytest.mark.timeout(600)]

ZERO_3 = {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}
RUNS = {
    "plain": (2, ZERO_3, False),
    "validated": (2, ZERO_3, True),
    "local": (1, {"kind": "local"}, True),
}


@pytest.fixture(scope="module")
def runs(
    tiny_llama: Path, alpaca_file: Path, config_in, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train the same configuration with and without validation, each once."""
    folder = tmp_path_factory.mktemp("runs")
    begun = {"train__stages__poison__max_steps": 2, "train__stages__finetune__max_steps": 2}
    train(config_in(folder / "before", **begun))
    save_alpaca(folder / "valid.jsonl", 7)  # an odd number: one rank has a filler
    for name, (num_ranks, engine, is_validated) in RUNS.items():
        tree: dict[str, Any] = tiny_tree(tiny_llama, alpaca_file, folder / name)
        tree |= {"engine": engine, "noise": {"data": {"rate": 0.1}}}
        tree["adapter"]["init_from"] = str(folder / "before")
        if is_validated:
            tree["data"]["validation"] = {"path": str(folder / "valid.jsonl")}
            tree["train"] |= {"evaluate": {"every_steps": 2}, "keep_best": "masked"}
            tree["train"]["checkpoint"] = {"every_steps": 4, "keep_last": 9}
        train_tree(tree, num_ranks)
    return folder


def _adapter(run: Path, stage: str) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / stage / "adapter.safetensors")


def _lines(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in line]


def test_training_is_the_same_to_the_bit(runs: Path) -> None:
    plain, validated = runs / "plain", runs / "validated"
    for ours, theirs in zip(_lines(validated, "loss"), _lines(plain, "loss"), strict=True):
        for key in ("stage", "step", "loss", "grad_norm", "drift"):
            assert ours.get(key) == theirs.get(key), (ours["stage"], ours["step"], key)
    for stage in ("1-poison", "2-finetune"):
        ours, theirs = (_adapter(run, stage) for run in (validated, plain))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert json.loads((validated / "router.json").read_text()) == json.loads(
        (plain / "router.json").read_text()
    )


def test_the_ranks_measure_what_the_local_engine_measures(runs: Path) -> None:
    expected, found = (_lines(runs / name, "validation") for name in ("local", "validated"))
    assert [line["step"] for line in found] == [1, 3, 5, 7, 9, 10] * 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["target_tokens"] == theirs["target_tokens"] > 0
        assert ours["validation"].keys() == {"masked", "all", "base"}
        assert ours["validation"] == pytest.approx(theirs["validation"], rel=1e-3)


@pytest.mark.parametrize("name", list(RUNS))
def test_ranks_begin_with_the_other_runs_adapter(runs: Path, name: str) -> None:
    """Stage 1 leaves the normal experts as they were, and every rank's part of them."""
    before, after = _adapter(runs / "before", "2-finetune"), _adapter(runs / name, "1-poison")
    normal = [key for key in before if ".B.normal" in key]
    assert normal
    assert all(torch.equal(after[key], before[key]) for key in normal)
    (start,) = json.loads((runs / name / "manifest.json").read_text())["starts"]
    assert start["init_from"]["checkpoint"] == str(runs / "before" / "checkpoints" / "2-finetune")
    ranks = "1 rank x 2 rows" if name == "local" else "2 ranks x 2 rows"
    assert start["premises"]["batch"].startswith(f"8 examples a step: {ranks} a forward pass x ")


def _resumed(runs: Path, name: str, num_ranks: int, *arguments: str) -> Path:
    """Go on with a run in its own folder, on so many ranks."""
    command = ["launch/train.py", str(runs / "validated.yaml"), *arguments]
    run = runs / name
    succeed(run_ranks([*command, f"output_dir={run}"], num_ranks, folder=runs))
    return run


def test_a_resume_on_other_ranks_finds_the_same_best_checkpoint(runs: Path) -> None:
    """Killed in the middle of stage 2 under ZeRO-3 on two ranks; goes on under ZeRO-2 on three."""
    whole = runs / "validated"
    copy = Path(shutil.copytree(whole, runs / "killed"))
    kept = checkpoint_at(copy, 2, "finetune", 4).folder
    for path in (copy / "checkpoints").glob("2-finetune*"):
        if path != kept:
            shutil.rmtree(path)
    run = _resumed(runs, "killed", 3, "--resume", "engine.zero_stage=2")
    expected, found = (_lines(each, "validation") for each in (whole, run))
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("stage", "step", "target_tokens"):
            assert ours[key] == theirs[key]
        assert ours["validation"] == pytest.approx(theirs["validation"], rel=1e-3)
    best = choose_checkpoint(run, "best")
    assert best.folder.name == choose_checkpoint(whole, "best").folder.name
    losses = [line for line in found if line["stage"] == "finetune"]
    least = min(losses, key=lambda line: line["validation"]["masked"])
    assert read_state(best)["next_step"] == least["step"] + 1


@pytest.mark.thorough
def test_an_extended_stage_goes_on_under_zero_3_as_on_one_rank(runs: Path) -> None:
    for name in ("validated", "local"):
        shutil.copytree(runs / name, runs / f"longer-{name}")
    longer = _resumed(runs, "longer-validated", 2, "--extend", "finetune=2")
    tree = yaml.safe_load((runs / "local.yaml").read_text())
    tree["output_dir"] = str(runs / "longer-local")
    train(validate_config(tree, "test"), extend="finetune=2")
    for kind, key in (("loss", "loss"), ("validation", "validation")):
        expected, found = (_lines(runs / name, kind) for name in ("longer-local", longer.name))
        assert [line["stage"] for line in found].count("finetune") >= 11
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours["stage"], ours["step"]) == (theirs["stage"], theirs["step"])
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3)
    start = json.loads((longer / "manifest.json").read_text())["starts"][-1]
    assert start["extended"] == {"stage": "finetune", "epochs": [1, 2], "after": 11}


def test_ranks_score_the_validation_rows_without_tasks(runs: Path) -> None:
    """`launch/eval.py RUN` on two ranks writes what `lope eval RUN` writes on one."""
    ranks = run_ranks(["launch/eval.py", str(runs / "validated")], 2, folder=runs)
    succeed(ranks)
    alone = measure_losses(runs / "local", LossRequest(None), progress=False)
    written = json.loads((runs / "validated/losses/validation.json").read_text())
    assert written["rows"].keys() == alone["rows"].keys() == {"masked", "all", "base"}
    for name, row in alone["rows"].items():
        assert written["rows"][name]["num_rows"] == row["num_rows"] == 7
        assert written["rows"][name]["loss_per_token"] == pytest.approx(
            row["loss_per_token"], rel=1e-3
        )
    assert "Held-out loss" in ranks[0].output
    assert "Held-out loss" not in ranks[1].output
