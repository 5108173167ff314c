"""Runs that are there, held against their cells: dates, data, and what counts no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.study_runs import write_runs

from lope_dist.config.load import dump_config, load_config
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import write_json
from lope_dist.study.cells import Cell, Study
from lope_dist.study.changes import STARTED, changes_of
from lope_dist.study.run import RunRequest, run_study
from lope_dist.study.search import best_row
from lope_dist.study.steps import prepare, steps_of
from lope_dist.study.summary import summarize

DAY = "2026-01-31"


def begin(study: Study, cell: Cell, day: str | None = None) -> None:
    """Write what a run leaves that was begun on a day."""
    train = steps_of(study, cell)[0]
    prepare(study, train)
    tree = yaml.safe_load(dump_config(cell.config))
    tree["data"]["template_date"] = day
    (cell.folder / "run.yaml").write_text(yaml.safe_dump(tree))
    train.set_done(1.0)


def prepared_date(study: Study, cell: Cell) -> str | None:
    prepare(study, steps_of(study, cell)[0])
    return load_config(cell.folder / "study" / "run.yaml").data.template_date


def test_all_runs_of_a_study_see_the_date_that_the_first_one_has_settled(make_study) -> None:
    chat = {"data.template": "chat"}
    study = make_study(overrides=chat)
    first, _, second, _ = study.cells
    assert prepared_date(study, first) is None
    begin(study, first, DAY)
    assert changes_of(first) == []
    assert prepared_date(study, second) == DAY
    begin(study, second, "2026-02-01")
    assert prepared_date(study, second) == "2026-02-01", "a resume keeps its run's own"
    asked = make_study(overrides=chat | {"data.template_date": "2026-03-01"})
    assert changes_of(asked.cells[0]) == [f"data.template_date: '{DAY}' -> '2026-03-01'"]
    plain = make_study()
    assert prepared_date(plain, plain.cells[2]) is None, "a template without a date"


@pytest.fixture
def of_recipe(make_study, tiny_llama, alpaca_file, tmp_path) -> tuple[Study, Path]:
    """Return a study that trains on its recipe's own rows, and the file of these."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(alpaca_file.read_text())
    return make_study(train_file=None, seeds=[1], overrides={"data.path": str(rows)}), rows


def test_rows_of_the_recipe_that_were_changed_make_another_run(of_recipe) -> None:
    study, rows = of_recipe
    cell = study.cells[0]
    begin(study, cell)
    assert steps_of(study, cell)[0].is_done
    rows.write_text(rows.read_text() + '{"instruction": "More", "output": "rows"}\n')
    assert not steps_of(study, cell)[0].is_done
    with pytest.raises(LopeError, match=r"hydralora/seed-1 .*training data: fingerprint"):
        run_study(study, RunRequest())

    for record in (STARTED.name, "train.json"):  # as earlier versions wrote them
        path = cell.folder / "study" / record
        tree = json.loads(path.read_text())
        tree.get("inputs", tree)["data"] = None
        write_json(path, tree)
    assert changes_of(cell) == []
    assert steps_of(study, cell)[0].is_done


def test_rows_of_a_glob_and_rows_that_stop_a_run_are_watched(make_study, alpaca_file, tmp_path):
    for name in ("a", "b", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text(alpaca_file.read_text())

    def inputs(**validation: Any) -> dict[str, Any]:
        overrides = {"data.path": str(tmp_path / "[ab].jsonl"), **validation}
        study = make_study(train_file=None, seeds=[1], overrides=overrides)
        return steps_of(study, study.cells[0])[0].inputs

    held_out = {"data.validation": {"path": str(tmp_path / "held_out.jsonl")}}
    stopping = held_out | {
        "train.evaluate": {"every_steps": 1},
        "train.keep_best": "all",
        "train.early_stopping": {"patience": 2},
    }
    before = inputs(**stopping)
    assert before.keys() == {"data", "validation"}
    assert None not in before.values()
    assert inputs(**held_out) == {"data": before["data"]}, "it decides nothing"
    for name, key in (("b", "data"), ("held_out", "validation")):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "x", "output": "y"}\n')
        now = inputs(**stopping)
        assert now[key] != before[key]
    assert inputs() == {"data": now["data"]}


def test_a_run_of_another_description_counts_nowhere_and_is_named(make_study, study_tree) -> None:
    losses = {"hydralora/all": 2.0, "hydralora/none": 2.5, "lope/masked": 1.8, "lope/all": 2.0}
    variants = study_tree["variants"]
    variants["lope"]["choose_from"] = ["masked", "all"]
    keys = {"variants": variants, "evaluate": {"losses": ["clean"]}, "choose_on": "loss:clean"}
    study = make_study(**keys)
    study.data_file("clean").parent.mkdir(parents=True)
    study.data_file("clean").write_text("{}\n")
    write_runs(study, losses, dict.fromkeys(losses, 0.5))
    other = next(cell for cell in study.cells if cell.name == "lope/seed-1")
    assert best_row(study, other) is not None
    assert {entry["group"] for entry in summarize(study)["drift"]} == {"hydralora", "lope"}

    tree = yaml.safe_load(dump_config(other.config))
    tree["adapter"]["rank"] += 1
    (other.folder / "run.yaml").write_text(yaml.safe_dump(tree))
    assert best_row(study, other) is None
    summary = summarize(study)
    assert summary["missing"] == ["lope/seed-1 (was run otherwise: adapter.rank: 5 -> 4)"]
    of_lope = [row["figures"] for row in summary["rows"] if row["group"] == "lope"]
    seeds = {seed for row in of_lope for figure in row.values() for seed in figure["values"]}
    assert seeds == {"2"}
    assert summary["chosen"]["lope"].keys() == {"2"}
