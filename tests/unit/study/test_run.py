"""A study run in real processes: to its end, stopped, killed, and with a cell that fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.study.cells import Study
from lope_dist.study.files import make_files
from lope_dist.study.run import RunRequest, parse_duration, run_study
from lope_dist.study.steps import steps_of

ONE = {"lope": {"rows": ["masked", "all"]}}
LONG = {"train.stages.finetune.epochs": 400}
SHORT = {"train.stages.finetune.epochs": 12}
ALL = RunRequest()


def start(study: Study, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lope_dist.cli", "study", "run", str(study.path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def steps(run: Path) -> list[tuple[str, int]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line["stage"], line["step"]) for line in map(json.loads, lines)]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_second_stage(run: Path):
    return lambda: any(stage == "finetune" for stage, _ in steps(run))


OTHER = {"hydralora": {"rows": ["all"], "overrides": {"adapter.num_poison": 0}}}


@pytest.mark.thorough
@pytest.mark.parametrize("others", [{}, OTHER], ids=["one", "two"])
def test_cells_are_run_once_and_a_failure_leaves_the_others_going(make_study, others):
    broken = {"rows": ["all"], "overrides": {"adapter.targets": ["no_such_layer"]}}
    study = make_study(
        seeds=[1],
        variants={"broken": broken} | ONE | others,
        baseline="lope/all",
        evaluate={"losses": ["noisy"]},
    )
    ended = CliRunner().invoke(app, ["study", "run", str(study.path), "--jobs", "2", "--json"])
    errors = ended.stderr
    assert ended.exit_code == 1, errors
    result = json.loads(ended.stdout)
    assert sorted(result["done"]) == [*(f"{name}/seed-1" for name in others), "lope/seed-1"]
    assert "'no_such_layer'" in result["failed"]["broken/seed-1"]
    assert re.search(r"lope/seed-1: done \(train .*, loss-noisy ", errors)
    table = json.loads((study.folder / "runs/lope/seed-1/losses/noisy.json").read_text())
    assert set(table["rows"]) == {"masked", "all"}
    assert table["rows"]["masked"]["num_rows"] == 20
    assert "broken/seed-1: train" in errors
    before = (study.folder / "runs/lope/seed-1/metrics.jsonl").stat().st_mtime_ns
    outcome = run_study(study, RunRequest(only="lope"))
    assert outcome.done == ["lope/seed-1"]
    assert (study.folder / "runs/lope/seed-1/metrics.jsonl").stat().st_mtime_ns == before


def test_a_stopped_study_goes_on(make_study):
    study = make_study(seeds=[1], variants=ONE, baseline="lope/all", overrides=LONG)
    run = study.folder / "runs/lope/seed-1"
    process = start(study)
    wait_for(in_second_stage(run))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "1 cells left" in errors
    assert list((run / "checkpoints").glob("2-finetune-step-*"))
    trained = steps(run)
    assert 5 < len(trained) < 2005
    cut = {"train.stages.finetune.epochs": 1}
    with pytest.raises(LopeError, match=r"lope/seed-1 .*epochs: 400 -> 1"):
        run_study(make_study(seeds=[1], variants=ONE, baseline="lope/all", overrides=cut), ALL)
    outcome = run_study(
        make_study(seeds=[1], variants=ONE, baseline="lope/all", overrides=LONG),
        RunRequest(stop_after_s=0.1),
    )
    assert outcome.left == ["lope/seed-1"]
    assert steps(run) == trained


@pytest.mark.thorough
def test_a_killed_study_takes_its_children_along_and_goes_on(make_study):
    study = make_study(seeds=[1], variants=ONE, baseline="lope/all", overrides=SHORT)
    run = study.folder / "runs/lope/seed-1"
    process = start(study)
    wait_for(in_second_stage(run))
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert children
    wait_for(lambda: not any(child.is_running() for child in children))
    assert len(steps(run)) < 65  # they stopped, rather than come to their end
    assert list((run / "checkpoints").glob("2-finetune-step-*"))
    outcome = run_study(study, ALL)
    assert outcome.done == ["lope/seed-1"]
    found = steps(run)
    assert found == [("poison", i) for i in range(5)] + [("finetune", i) for i in range(60)]
    assert json.loads((run / "state.json").read_text())["status"] == "finished"


@pytest.mark.thorough
def test_a_run_on_other_data_is_refused_or_done_again(make_study, study_tree):
    study = make_study(seeds=[1], variants=ONE, baseline="lope/all")
    assert run_study(study, ALL).done == ["lope/seed-1"]
    record = study.folder / "runs/lope/seed-1/study/started.json"
    before = record.read_text()
    files = study_tree["files"]
    files["train"]["rows"] = [0, 24]
    study = make_study(seeds=[1], variants=ONE, baseline="lope/all", files=files)
    make_files(study, again=True)
    with pytest.raises(LopeError, match=r"training data: fingerprint"):
        run_study(study, ALL)
    assert run_study(study, RunRequest(redo_changed=True)).done == ["lope/seed-1"]
    assert record.read_text() != before
    assert len(steps(study.folder / "runs/lope/seed-1")) == 6


def test_a_training_file_that_an_axis_chooses_is_watched_too(make_study, study_tree):
    source = study_tree["files"]["train"]["source"]
    files = {name: {"source": source, "rows": [0, n]} for name, n in (("a", 9), ("b", 8))}
    axes = {
        "data": {name: {"data.path": "${output_dir}/data/" + name + ".jsonl"} for name in "ab"},
    }
    study = make_study(axes=axes, train_file=None, seeds=[1], files=files)
    make_files(study)
    inputs = [steps_of(study, cell)[0].inputs["data"] for cell in study.cells]
    assert len(inputs) == 4
    assert None not in inputs
    assert inputs[0] == inputs[2] != inputs[1] == inputs[3]


def test_a_row_that_is_unknown_shows_before_any_training(make_study):
    study = make_study(variants={"lope": {"rows": ["maskd"]}}, baseline="lope/maskd")
    with pytest.raises(LopeError, match="maskd"):
        run_study(study, ALL)
    assert not study.folder.exists()


def test_names_that_are_no_cell_and_durations_that_are_none_are_told(make_study):
    with pytest.raises(LopeError, match=r"--only: 'lop'.* hydralora/seed-1, lope"):
        run_study(make_study(), RunRequest(only="lop"))
    assert [parse_duration(text) for text in ("90s", "1.5 m", "2h")] == [90, 90, 7200]
    for text in ("10", "m", "0s", "-1m"):
        with pytest.raises(LopeError, match="--stop-after"):
            parse_duration(text)
