"""Tries whose training diverged: a search goes on, and what was found is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.in_process import InProcess
from support.tiny import tiny_tree

from lope_dist.config.load import validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.study import compare_methods as module
from lope_dist.study import run as running
from lope_dist.study.changes import diverged
from lope_dist.study.compare_methods import CompareRequest, compare_methods
from lope_dist.study.load import load_study
from lope_dist.study.method_studies import MethodStudies
from lope_dist.study.report import write_study_report
from lope_dist.study.run import RunRequest, run_study
from lope_dist.study.sample import draw_sample
from lope_dist.study.summary import summarize
from lope_dist.train import session

WILD = {
    "train.stages.finetune.lr": 1e30,
    "train.stages.finetune.schedule": "constant",
    "train.stages.finetune.warmup_ratio": 0,
}


@pytest.fixture
def searching(study_tree: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a study of HydraLoRA whose learning rate is searched."""
    search = {"lr": {"calm": {"train.stages.finetune.lr": 1e-3}, "wild": WILD}}
    overrides = {"adapter.num_poison": 0, "adapter.targets": ["gate_proj", "up_proj"]}
    return {
        "seeds": [1],
        "variants": {"lora": {"rows": ["all"], "overrides": overrides, "search": search}},
        "baseline": "lora/all",
        "evaluate": {"losses": ["clean"]},
        "choose_on": "loss:clean",
    }


def test_a_try_that_diverged_is_the_worst_of_its_search(make_study, searching, monkeypatch):
    monkeypatch.setattr(running, "Child", InProcess)
    study = make_study(**searching)
    outcome = run_study(study, RunRequest())
    assert (outcome.failed, outcome.left) == ({}, [])
    assert sorted(outcome.done) == ["lora/seed-1", "lora=calm/seed-1", "lora=wild/seed-1"]
    study = load_study(study.path)
    assert study.settings == {"lora": ("calm",)}
    log = study.folder / "runs/lora=wild/seed-1/study/train.log"
    before = log.stat().st_mtime_ns
    assert run_study(study, RunRequest()).left == []
    assert log.stat().st_mtime_ns == before, "it would diverge again"
    page = write_study_report(study).with_suffix(".md").read_text()
    assert "| lora | lr | calm | calm, wild; wild diverged |" in page


def test_a_search_of_which_every_try_diverged_fails(make_study, searching, monkeypatch):
    monkeypatch.setattr(running, "Child", InProcess)
    searching["variants"]["lora"]["search"] = {"lr": {"wild": WILD}}
    study = make_study(**searching)
    outcome = run_study(study, RunRequest())
    assert (outcome.done, outcome.left) == (["lora=wild/seed-1"], [])
    assert "variants.lora.search" in outcome.failed["lora/seed-1"]
    (missing,) = summarize(load_study(study.path))["missing"]
    assert "lora (every try of its search diverged" in missing


def test_any_other_failure_of_a_try_is_one(make_study, searching, monkeypatch):
    def fail(*_: object) -> None:
        raise LopeError("The disk is full.")

    monkeypatch.setattr(running, "Child", InProcess)
    monkeypatch.setattr(session, "load_session", fail)
    searching["variants"]["lora"]["search"] = {"lr": {"wild": WILD}}
    study = make_study(**searching)
    outcome = run_study(study, RunRequest())
    assert [*outcome.failed] == ["lora=wild/seed-1"]
    manifest = json.loads((study.folder / "runs/lora=wild/seed-1/manifest.json").read_text())
    assert manifest["starts"][-1]["reason"] == "The disk is full."


@pytest.fixture
def config(tiny_llama: Path, alpaca_file: Path, tmp_path: Path) -> RunConfig:
    tree = tiny_tree(tiny_llama, alpaca_file, tmp_path / "run")
    tree["train"]["stages"]["poison"]["max_steps"] = 1
    tree["train"]["stages"]["finetune"]["max_steps"] = 2
    return validate_config(tree, "test")


@pytest.mark.thorough
def test_a_rate_that_diverges_is_not_compared(config, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "Child", InProcess)
    monkeypatch.setattr(module, "FACTORS", (1e30, 1.0))
    monkeypatch.setattr(module, "MOST_SEEDS", 1)
    found = compare_methods(config, CompareRequest(30, 96, tmp_path / "out"))
    assert set(found["chosen_rates"].values()) == {0.01}
    told = [note for note in found["notes"] if "diverged at 1e+28." in note]
    assert [note.split()[0] for note in told] == ["LoPE", "HydraLoRA", "LoRA"]


def test_a_method_that_diverges_at_every_rate_is_refused(config, tmp_path):
    studies = MethodStudies(config, draw_sample(config, 96, tmp_path), tmp_path)
    studies.write_recipe()
    cells = studies.search([1.0, 3.0]).cells
    for cell in cells:
        cell.folder.mkdir(parents=True)
        start = {"status": "failed", "diverged": cell.group.variant.startswith("lope-")}
        (cell.folder / "manifest.json").write_text(json.dumps({"starts": [start]}))
    assert [diverged(cell) for cell in cells] == [True, False, False] * 2
    with pytest.raises(LopeError, match=r"LoPE diverged at .*0\.01, 0\.03"):
        module._best(studies, (1.0, 3.0))
    tree = cells[0].config.model_dump(mode="json")
    tree["adapter"]["rank"] += 1
    (cells[0].folder / "run.yaml").write_text(yaml.safe_dump(tree))
    assert not diverged(cells[0]), "another run did"
