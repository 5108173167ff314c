"""Settings are searched with one seed, chosen on held-out rows, and trained with all seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.in_process import InProcess

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import write_json
from lope_dist.study import run as running
from lope_dist.study.cells import Study
from lope_dist.study.files import make_files
from lope_dist.study.load import load_study
from lope_dist.study.run import RunRequest, run_study
from lope_dist.study.steps import steps_of
from lope_dist.study.summary import summarize

HYDRALORA = {"adapter.num_poison": 0}
LR = {"low": {"train.stages.finetune.lr": 1e-5}, "high": {"train.stages.finetune.lr": 1e-2}}


@pytest.fixture
def tree(study_tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Return a study of HydraLoRA and of truncation, whose learning rate is searched."""
    data = tmp_path / "study" / "data"
    source = study_tree["files"]["clean"]["source"]
    files = {
        "train": {"source": source, "rows": [0, 24]},
        "swapped": {"source": "train", "noise": {"rate": 0, "responses": {"rate": 0.5}}},
        "held_out": {"source": source, "rows": [40, 50]},
        "fresh": {"source": source, "rows": [50, 60]},
    }
    variants = {
        "hydralora": {"rows": ["all", "none"], "overrides": HYDRALORA},
        "truncated": {
            "rows": ["all", "all:scale=0.5"],
            "choose_from": ["all", "all:scale=0.5"],
            "overrides": HYDRALORA | {"train.stages.finetune.loss": {"kind": "truncated"}},
            "where": {"noise": ["swapped"]},
            "search": {"lr": LR},
        },
    }
    return study_tree | {
        "files": files,
        "train_file": None,
        "variants": variants,
        "axes": {
            "noise": {
                "clean": {"data.path": str(data / "train.jsonl")},
                "swapped": {"data.path": str(data / "swapped.jsonl")},
            }
        },
        "evaluate": {"losses": ["fresh", "held_out"], "losses_of_chosen": ["fresh"]},
        "choose_on": "loss:held_out",
        "recovered": {
            "metric": "loss:fresh",
            "axis": "noise",
            "clean": "clean",
            "baselines": ["hydralora"],
        },
    }


@pytest.fixture
def study(tree: dict[str, Any], tmp_path: Path) -> Study:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_study(path)


@pytest.mark.thorough
def test_a_search_is_run_in_pieces_and_its_best_setting_is_judged(study, monkeypatch) -> None:
    monkeypatch.setattr(running, "Child", InProcess)
    names = {"truncated=low@swapped/seed-1", "truncated=high@swapped/seed-1"}
    assert {cell.name for cell in study.tries} == names
    assert study.searched == ["truncated@swapped"]
    assert not [cell for cell in study.cells if cell.group.variant == "truncated"]

    stopped = run_study(study, RunRequest(stop_after_s=1e-9))
    judged = {"truncated@swapped/seed-1", "truncated@swapped/seed-2"}
    assert set(stopped.left) == names | judged
    first = run_study(study, RunRequest(only="truncated=low@*"))
    assert (first.done, first.left, first.failed) == (["truncated=low@swapped/seed-1"], [], {})
    assert load_study(study.path).searched == ["truncated@swapped"], "one of two is measured"
    low = study.folder / "runs" / "truncated=low@swapped" / "seed-1"
    assert [p.stem for p in (low / "losses").glob("[!.]*")] == ["held_out"], (
        "fresh rows choose nothing"
    )
    before = (low / "metrics.jsonl").stat().st_mtime_ns

    whole = run_study(study, RunRequest())
    assert not whole.failed, whole.failed
    assert not whole.left
    assert (low / "metrics.jsonl").stat().st_mtime_ns == before
    losses = {}
    for name in LR:
        folder = study.folder / "runs" / f"truncated={name}@swapped" / "seed-1"
        rows = json.loads((folder / "losses" / "held_out.json").read_text())["rows"]
        losses[name] = min(row["loss_per_token"] for row in rows.values())
    best = min(losses, key=losses.__getitem__)

    found = load_study(study.path)
    assert found.settings == {"truncated@swapped": (best,)}
    judged = [cell for cell in found.cells if cell.group.variant == "truncated"]
    assert [cell.name for cell in judged] == [f"truncated@swapped/seed-{n}" for n in (1, 2)]
    assert judged[0].folder == study.folder / "runs" / f"truncated={best}@swapped" / "seed-1"
    assert judged[1].config.train.stages["finetune"].lr == LR[best]["train.stages.finetune.lr"]
    assert not (study.folder / "runs" / f"truncated={best}@swapped" / "seed-3").exists()
    assert run_study(found, RunRequest()).left == []

    hydralora = study.folder / "runs" / "hydralora@swapped" / "seed-1"
    of_all, of_one = _rows(hydralora), _rows(judged[1].folder)
    assert of_all == {"held_out": {"all", "base"}, "fresh": {"all", "base"}}
    assert of_one["held_out"] == {"all", "all:scale=0.5"}
    assert len(of_one["fresh"]) == 1, "the row that the held-out rows have chosen"

    summary = summarize(found)
    assert summary["missing"] == []
    (setting,) = summary["settings"]
    assert (setting["group"], setting["value"]) == ("truncated@swapped", best)
    of_noise = summary["recovered"]["swapped"]
    assert set(of_noise) == {"hydralora", "truncated"}
    assert of_noise["truncated"]["seeds"] == [1, 2]


def test_a_loss_of_the_chosen_row_waits_for_what_chooses(study) -> None:
    make_files(study)
    decided = replace(study, settings={"truncated@swapped": ("low",)})
    cell = next(c for c in decided.cells if c.group.variant == "truncated" and c.seed == 2)
    names = [step.name for step in steps_of(decided, cell)]
    assert names == ["train", "loss-held_out", "loss-fresh"], "what chooses comes first"

    def rows_of_fresh() -> list[str]:
        return steps_of(decided, cell)[2].inputs["rows"]

    def measure(losses: dict[str, float]) -> None:
        rows = {r: {"loss_per_token": x, "per_row": [[0, x, 1]]} for r, x in losses.items()}
        write_json(cell.folder / "losses" / "held_out.json", {"data": "held_out", "rows": rows})

    assert rows_of_fresh() == []
    for step in steps_of(decided, cell)[:2]:
        step.set_done(1.0)
    measure({"all": 2.0})
    assert rows_of_fresh() == [], "one of two rows is measured"
    measure({"all": 2.0, "all:scale=0.5": 1.5})
    assert rows_of_fresh() == ["all:scale=0.5"]
    measure({"all": 1.0, "all:scale=0.5": 1.5})
    assert rows_of_fresh() == ["all"]


def _rows(run: Path) -> dict[str, set[str]]:
    """Return file -> the rows that were measured of a run."""
    files = (run / "losses").glob("[!.]*")
    return {p.stem: set(json.loads(p.read_text())["rows"]) for p in files}


def test_a_point_takes_over_the_settings_that_another_one_found(tree, tmp_path) -> None:
    del tree["variants"]["truncated"]["where"]
    tree["search_as"] = {"noise": {"swapped": "clean"}}
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    study = load_study(path)
    assert {cell.group.name for cell in study.tries} == {
        "truncated=low@clean",
        "truncated=high@clean",
    }
    assert study.searched == ["truncated@clean", "truncated@swapped"]

    decided = replace(study, settings={"truncated@clean": ("high",)})
    assert decided.searched == []
    folders = {cell.folder.parent.name for cell in decided.cells if cell.seed == 1}
    assert {"truncated=high@clean", "truncated=high@swapped"} <= folders
    rates = {
        cell.config.train.stages["finetune"].lr
        for cell in decided.cells
        if cell.group.variant == "truncated"
    }
    assert rates == {LR["high"]["train.stages.finetune.lr"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"choose_on": None, "recovered": None},
            r"truncated\.(search|choose_from) needs choose_on",
        ),
        ({"recovered": {"metric": "loss:held_out"}}, "is what choose_on chooses on"),
        ({"recovered": {"metric": "loss:other"}}, r"recovered\.metric = 'loss:other'"),
        ({"recovered": {"axis": "rank"}}, r"recovered\.axis = 'rank'"),
        ({"recovered": {"clean": "none"}}, r"recovered\.clean = 'none'"),
        ({"recovered": {"baselines": ["lora"]}}, r"recovered\.baselines = 'lora'"),
        ({"recovered": {"baselines": ["truncated"]}}, r"recovered\.baselines: 'truncated'"),
        ({"search_as": {"noise": {"swapped": "clean"}}}, "'truncated@clean', which is not"),
        ({"search_as": {"noise": {"clean": "clean"}}}, "no search of its own to take over"),
        ({"search_as": {"noise": {"clean": "other"}}}, r"search_as\.noise = 'other'"),
        ({"search_as": {"rank": {"clean": "clean"}}}, "search_as = 'rank'"),
        ({"search_as": {"noise": {}}, "search": {}}, "search_as would have no effect"),
        ({"evaluate": {"losses_of_chosen": ["other"]}}, "losses_of_chosen = 'other'"),
        ({"evaluate": {"losses_of_chosen": ["held_out"]}}, "names the file of choose_on"),
        (
            {
                "claims": {
                    "c": {
                        "claim": "It helps",
                        "metric": "loss:held_out",
                        "better": "truncated@swapped/all",
                        "than": "hydralora@swapped/all",
                        "direction": "lower",
                    }
                }
            },
            "'truncated@swapped/all' on loss:held_out, which it was chosen on",
        ),
        (
            {
                "means": {"both": ["loss:fresh", "loss:held_out"]},
                "claims": {
                    "c": {
                        "claim": "It helps",
                        "metric": "both",
                        "better": "hydralora@swapped/all",
                        "than": "truncated@swapped/chosen",
                        "direction": "lower",
                    }
                },
            },
            "'truncated@swapped/chosen' on both, which it was chosen on",
        ),
        ({"search": {"seed": {"a": {"seed": 3}}}}, r"search\.seed\.a: 'seed'"),
        ({"search": {"lr": {}}}, r"search\.lr"),
    ],
)
def test_what_does_not_fit_is_refused(tree, tmp_path, changes, message) -> None:
    if "search" in changes:
        tree["variants"]["truncated"]["search"] = changes.pop("search")
        tree |= changes
    elif isinstance(changes.get("recovered"), dict):
        tree["recovered"] |= changes["recovered"]
    elif "evaluate" in changes:
        tree["evaluate"] |= changes["evaluate"]
    else:
        tree |= changes
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(LopeError, match=message):
        load_study(path)


def test_rows_that_a_claim_judges_are_scored_beside_the_chosen_one(tree, tmp_path) -> None:
    claim = {"claim": "Half helps", "metric": "loss:fresh", "direction": "lower"}
    sides = {"better": "truncated@swapped/all:scale=0.5", "than": "truncated@swapped/chosen"}
    tree["claims"] = {"half": claim | sides}
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    study = load_study(path)
    rows = {name: study.judged_rows(group, "loss:fresh") for name, group in study.groups.items()}
    assert rows.pop("truncated@swapped") == ["all:scale=0.5"]
    assert not any(rows.values())
    assert study.judged_rows(study.groups["truncated@swapped"], "loss:held_out") == []


def test_a_precision_that_is_slow_here_is_told_before_anything_runs(study, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(running, "tell_slow_dtype", told.append)
    assert run_study(study, RunRequest(stop_after_s=1e-9)).left
    assert told == ["float32"]


@pytest.mark.parametrize("only", ["truncated@swapped", "truncated@swapped/*"])
def test_a_cell_is_asked_for_with_the_tries_that_choose_its_settings(study, only) -> None:
    stopped = run_study(study, RunRequest(stop_after_s=1e-9, only=only))
    assert stopped.left == [
        "truncated=low@swapped/seed-1",
        "truncated=high@swapped/seed-1",
        "truncated@swapped/seed-1",
        "truncated@swapped/seed-2",
    ]
    one = run_study(study, RunRequest(stop_after_s=1e-9, only="truncated=low@*"))
    assert one.left == ["truncated=low@swapped/seed-1"], "a try asks for nothing else"


def test_a_pattern_that_names_no_cell_is_refused(study) -> None:
    with pytest.raises(LopeError, match=r"truncated=low@swapped/seed-1, "):
        run_study(study, RunRequest(only="truncatde*"))
