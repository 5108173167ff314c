"""What a study takes for its own scores, and what makes it score again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.study_runs import write_answers
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.runlog import read_json, write_json
from lope_dist.evaluate.harness import results
from lope_dist.evaluate.harness.suite_file import load_suite
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.study import run as study_run
from lope_dist.study.observe import observe
from lope_dist.study.run import RunRequest, run_study
from lope_dist.study.steps import Step, steps_of

ONE = {"seeds": [1], "variants": {"lope": {"rows": ["all"]}}, "baseline": "lope/all"}


def eval_step(study, name: str = "s") -> Step:
    (step,) = [s for s in steps_of(study, study.cells[0]) if s.name == f"eval-{name}"]
    return step


@pytest.fixture
def own_tasks(tmp_path: Path) -> Path:
    """Return a folder with a task of one few-shot example, in a group and with a tag."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "source.py").write_text(
        "from datasets import Dataset, DatasetDict\n"
        "def load(**_):\n"
        "    rows = [{'q': f'Say {i}.', 'c': ['a', 'bb'], 'a': i % 2} for i in range(5)]\n"
        "    return DatasetDict({'test': Dataset.from_list(rows)})\n"
    )
    (folder / "one.yaml").write_text(
        "task: one\ntag: some\ndataset_path: json\ncustom_dataset: !function source.load\n"
        "test_split: test\nfewshot_split: test\noutput_type: multiple_choice\ndoc_to_text: q\n"
        "doc_to_choice: c\ndoc_to_target: a\nnum_fewshot: 1\nmetadata: {version: 1}\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (folder / "both.yaml").write_text(
        "group: both\ntask: [one]\nmetadata: {version: 1}\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return folder


def test_a_suite_is_scored_again_where_its_figures_or_its_files_changed(
    make_study, trained, own_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    where = {"include_path": str(own_tasks)}
    tasks = {"s": "both", "t": "some", "u": "one"}
    suites = {name: where | {"tasks": [task]} for name, task in tasks.items()}
    study = make_study(**ONE, evaluate={"suites": suites})
    folder = study.cells[0].folder
    shutil.copytree(trained.folder, folder)
    table = folder / "results.json"

    def lope(*arguments: str) -> None:
        ended = CliRunner().invoke(app, arguments)
        assert ended.exit_code == 0, ended.output

    def run(name: str = "s") -> None:
        step = eval_step(study, name)
        lope(*step.arguments)
        step.set_done(1.0)
        assert eval_step(study, name).is_done

    def one() -> dict[str, Any]:
        return read_json(table)["rows"][0]["tasks"]["one"]

    for name in suites:
        run(name)
    whole = one()
    by_hand = ("eval", str(folder), "--tasks", "one", "--experts", "all")
    lope(*by_hand, "--include-path", str(own_tasks), "--num-fewshot", "2")
    assert one() != whole
    assert not any(eval_step(study, name).is_done for name in suites)
    run()
    assert one() == whole

    content = read_json(table)
    content["rows"][0]["tasks"]["one"]["acc"] = 0.123
    write_json(table, content)
    run()
    assert one()["acc"] == 0.123, "of the same files, so it stays"
    moved = shutil.copytree(own_tasks, own_tasks.with_name("moved"))
    (moved / "one.yaml").write_text((moved / "one.yaml").read_text() + "# other\n")
    suites["s"]["include_path"] = str(moved)
    study = make_study(**ONE, evaluate={"suites": {"s": suites["s"]}})
    assert not eval_step(study).is_done
    assert "--rescore" not in eval_step(study).arguments, "a restart would begin anew"
    run()
    assert one()["acc"] == whole["acc"]


def test_a_pattern_does_not_ask_for_noisy_variants(make_study, tmp_path: Path) -> None:
    (tmp_path / "noisy.yaml").write_text(
        "tasks: [{task: arc, question: [q]}]\nnoise: {text: {rate: 0.1}}\n"
    )
    suites = {"clean": {"tasks": ["arc*"]}, "noisy": {"suite": "noisy.yaml"}}
    study = make_study(**ONE, evaluate={"suites": suites})
    (cell,) = study.cells
    write_answers(cell, {"all": {"arc_easy": [True, False], "arc_easy_noisy": [False, False]}})
    path = cell.folder / "results.json"
    table = read_json(path) | {"groups": {"arc": ["arc_easy"], "arc_noisy": ["arc_easy_noisy"]}}
    figures = table["rows"][0]["tasks"]
    noise = load_suite(str(tmp_path / "noisy.yaml")).noise
    assert noise is not None
    figures["arc_easy_noisy"]["noise"] = noise.model_dump(mode="json") | {"question": ["q"]}
    figures["arc"] = figures["arc_noisy"] = {"acc": 0.5}
    write_json(path, table)
    assert eval_step(study, "clean").holds()
    assert eval_step(study, "noisy").holds()
    figures["arc_easy"]["limit"] = 5
    write_json(path, table)
    assert not eval_step(study, "clean").holds()
    del figures["arc_easy"], figures["arc"]
    write_json(path, table)
    assert not eval_step(study, "clean").holds(), "nothing but the noisy variants is left"


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 20},
        {"num_fewshot": 5, "defined_num_fewshot": 0},
        {"chat_template": True},
        {"noise": {"seed": 1}},
    ],
)
def test_a_score_of_other_settings_is_not_the_studys(make_study, change) -> None:
    suites = {"s": {"tasks": ["piqa", "group*"]}}
    study = make_study(**ONE, evaluate={"suites": suites})
    (cell,) = study.cells
    write_answers(cell, {"all": {"piqa": [True, False], "group_a": [True], "b": [True]}})
    path = cell.folder / "results.json"
    table = read_json(path) | {"groups": {"group": ["b"]}}
    figures = table["rows"][0]["tasks"]
    figures["group"] = {"acc": 1.0}
    step = eval_step(study)
    step.set_done(1.0)

    def shown(**changed: dict[str, Any]) -> tuple[bool, set[str]]:
        tasks = figures | {name: figures[name] | change for name, change in changed.items()}
        path.write_text(json.dumps(table | {"rows": [table["rows"][0] | {"tasks": tasks}]}))
        return step.is_done, {m for m in observe(study).metrics() if m.startswith("acc")}

    every = {"acc:piqa", "acc:group_a", "acc:b", "acc:group"}
    assert shown() == (True, every)
    assert shown(piqa=change) == (False, every - {"acc:piqa"})
    is_variant = "noise" in change  # a pattern does not ask for noisy variants
    assert shown(group_a=change) == (is_variant, every - {"acc:group_a"})
    assert shown(b=change) == (is_variant, every - {"acc:b", "acc:group"}), "one of the group"


def test_suites_that_replace_each_others_figures_are_told(make_study, monkeypatch) -> None:
    """What a group is made of is known to lm-eval, and so to a study once its runs are scored."""
    suites = {"a": {"tasks": ["group"], "limit": 5}, "b": {"tasks": ["member"]}}
    study = make_study(**ONE, evaluate={"suites": suites})
    (cell,) = study.cells
    (row,) = rows_for(["all"], cell.config.adapter)

    class Ended:
        """A command that ended well."""

        seconds = 1.0

        def __init__(self, arguments, *_) -> None:
            if arguments[0] != "eval":
                return
            limit = 5 if "--limit" in arguments else None
            identity = {**row.identity(), "checkpoint": "2-finetune", "adapter_sha256": "a"}
            member = {"member": {"acc": 0.5, "num_fewshot": 0, "limit": limit}}
            results.record(cell.folder, row, identity, member)
            if limit:
                mean, groups = {"group": {"acc": 0.5}}, {"group": ["member"]}
                results.record(cell.folder, row, identity, mean, groups)

        def poll(self) -> int:
            return 0

        def progress(self) -> str:
            return ""

    monkeypatch.setattr(study_run, "Child", Ended)
    outcome = run_study(study, RunRequest())
    assert outcome.done == []
    assert "eval-a: another suite has scored the same tasks" in outcome.failed[cell.name]
    suites["b"]["limit"] = 5
    outcome = run_study(make_study(**ONE, evaluate={"suites": suites}), RunRequest())
    assert (outcome.done, outcome.failed) == ([cell.name], {})
