import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.thread_ranks import on_ranks

from lope_dist.config.suite import SuiteConfig, SuiteTask
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, write_json
from lope_dist.evaluate.harness import suite, tasks
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.harness.results import plain_metrics
from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run
from lope_dist.evaluate.loaded import parallel
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.train.checkpoint.history import last_checkpoint


@pytest.fixture
def request_of(task_dir: Path):
    def make(tasks: str, experts: str, **settings) -> EvalRequest:
        words = tuple(tasks.split(",")), tuple(experts.split(","))
        return EvalRequest(*words, include_path=str(task_dir), **settings)

    return make


@pytest.fixture
def _quick(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the run that is in memory already."""
    monkeypatch.setattr(suite, "load_run", lambda folder, **_: loaded)
    # A description of the machine that lm-eval adds to its own output, by slow subprocesses.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.mark.usefixtures("_quick")
def test_calls_fill_one_table(run_copy: Path, request_of) -> None:
    first = evaluate_run(run_copy, request_of("tiny_choice", "none,masked"))
    assert read_json(run_copy / "results.json") == first
    second = evaluate_run(run_copy, request_of("tiny_all", "masked,all", limit=3))
    assert read_json(run_copy / "results.json") == second

    rows = {row["name"]: row for row in second["rows"]}
    assert list(rows) == ["base", "masked", "all"]
    assert rows["base"] == first["rows"][0]
    assert list(rows["base"]["tasks"]) == ["tiny_choice"]
    assert set(rows["masked"]["tasks"]) == {"tiny_choice", "tiny_other", "tiny_all"}
    assert second["groups"] == {"tiny_all": ["tiny_choice", "tiny_other"]}
    assert set(second["versions"]) == {"lm_eval", "torch", "transformers"}

    task = rows["base"]["tasks"]["tiny_choice"]
    assert task["acc"] in [i / 5 for i in range(6)]
    assert {"limit": None, "num_fewshot": 0, "version": 3}.items() <= task.items()
    replaced = rows["masked"]["tasks"]["tiny_choice"]
    assert replaced["limit"] == 3
    assert replaced["acc"] in [i / 3 for i in range(4)]


@pytest.mark.usefixtures("_quick")
def test_scores_of_another_adapter_are_not_kept(run_copy: Path, request_of) -> None:
    table = evaluate_run(run_copy, request_of("tiny_other", "none,masked,all", limit=1))
    assert [len(row["tasks"]) for row in table["rows"]] == [1, 1, 1]
    table["rows"][2]["adapter_sha256"] = "0" * 64
    table["rows"][0]["adapter_sha256"] = "0" * 64  # the base is the same under any adapter
    write_json(run_copy / "results.json", table)
    table = evaluate_run(run_copy, request_of("tiny_choice", "none,masked,all", limit=1))
    both = ["tiny_other", "tiny_choice"]
    assert [list(row["tasks"]) for row in table["rows"]] == [both, both, ["tiny_choice"]]


@pytest.mark.usefixtures("_quick")
def test_a_pattern_stands_for_every_task_that_it_matches(run_copy: Path, request_of) -> None:
    (row,) = evaluate_run(run_copy, request_of("tiny_[co]*", "none", limit=1))["rows"]
    assert set(row["tasks"]) == {"tiny_choice", "tiny_other"}


@pytest.mark.usefixtures("_quick")
def test_a_group_that_a_pattern_matches_stands_for_its_members(run_copy: Path, request_of) -> None:
    table = evaluate_run(run_copy, request_of("tiny_*", "none", limit=1))
    assert set(table["rows"][0]["tasks"]) == {"tiny_choice", "tiny_other", "tiny_all"}


@pytest.mark.usefixtures("_quick")
def test_each_row_says_whose_it_is(run_copy: Path, request_of) -> None:
    rows = evaluate_run(run_copy, request_of("tiny_choice", "masked_plain,masked"))["rows"]
    checkpoint = last_checkpoint(run_copy)
    assert checkpoint is not None
    assert [row["compensation"]["mode"] for row in rows] == ["none", "conserve"]
    for row in rows:
        assert row["experts"] == "masked"
        assert row["checkpoint"] == "2-finetune"
        assert row["adapter_sha256"] == checkpoint.adapter_sha256


@pytest.mark.usefixtures("_quick")
def test_another_checkpoint_is_scored_beside_the_last(run_copy: Path, request_of) -> None:
    request = request_of("tiny_choice", "base,all", limit=4)
    before = evaluate_run(run_copy, request)["rows"]
    table = evaluate_run(run_copy, replace(request, checkpoint="1-poison"))
    names = {row["name"]: row.get("checkpoint") for row in table["rows"]}
    assert names["all"] == "2-finetune"
    assert names["all@1-poison"] == "1-poison"
    assert set(names) == {"base", "all", "all@1-poison"}, "one base for all"
    kept = {row["name"]: row["tasks"] for row in table["rows"]}
    assert all(kept[row["name"]] == row["tasks"] for row in before)
    again = evaluate_run(run_copy, replace(request, checkpoint="1-poison"))
    assert again["rows"] == table["rows"], "what is there is not scored again"


@pytest.mark.usefixtures("_quick")
def test_scores_are_lm_evals_own(loaded, run_copy: Path, request_of) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    request = request_of("tiny_choice", "all", batch_size=2)
    (row,) = evaluate_run(run_copy, request)["rows"]
    manager = TaskManager(include_path=request.include_path, include_defaults=False)
    raw = simple_evaluate(
        model=LopeLM(loaded, "all", batch_size=1), tasks=["tiny_choice"], task_manager=manager
    )
    ours, theirs = row["tasks"]["tiny_choice"], raw["results"]["tiny_choice"]
    assert ours["acc"] == theirs["acc,none"]
    assert ours["acc_stderr"] == theirs["acc_stderr,none"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("tiny_choise",)}, r"'tiny_choise'.*'tiny_choice'"),
        ({"tasks": ("tiny_choice", "")}, "--tasks: '' "),
        ({"experts": ("maskd",)}, r"--experts: 'maskd'.*'masked'"),
        ({"include_path": "/no/such/folder"}, "--include-path: '/no/such/folder'"),
        ({"limit": 0}, "--limit 0: "),
        ({"limit": -0.5}, "--limit -0.5: "),
        ({"limit": float("nan")}, "--limit nan: "),
        ({"num_fewshot": -1}, "--num-fewshot -1: "),
    ],
)
def test_what_is_wrong_is_told_before_weights_are_read(
    run_copy: Path,
    request_of,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setattr(suite, "load_run", None)
    request = replace(request_of("tiny_choice", "masked"), **change)
    with pytest.raises(LopeError, match=message):
        evaluate_run(run_copy, request)
    assert not (run_copy / "results.json").exists()


def test_rows_of_a_purified_export_are_told_before_weights_are_read(
    run_copy: Path, request_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(run_copy, ExportRequest("purified", tmp_path / "export"))
    monkeypatch.setattr(suite, "load_run", None)
    with pytest.raises(LopeError, match=r"--experts all: .*purified"):
        evaluate_run(tmp_path / "export", request_of("tiny_choice", "masked,all"))


@pytest.mark.usefixtures("_quick")
def test_a_row_without_effect_is_told_before_another_is_scored(
    run_copy: Path, request_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LopeLM, "_probe", lambda self, **_: torch.ones(1, 1, 1))
    with pytest.raises(LopeError, match=r"experts 'all' .*2-finetune"):
        evaluate_run(run_copy, request_of("tiny_choice", "none,all"))
    assert not (run_copy / "results.json").exists()


@pytest.mark.usefixtures("_quick")
def test_a_chat_template_that_is_not_there_is_told(run_copy: Path, request_of) -> None:
    request = request_of("tiny_choice", "all", apply_chat_template=True)
    with pytest.raises(LopeError, match=r"--apply-chat-template: "):
        evaluate_run(run_copy, request)


def test_the_checkpoint_is_looked_for_once_and_is_that_of_rank_0(
    run_copy: Path, request_of, loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load(folder: Path, **settings):
        loads.append(settings["checkpoint"])
        return loaded

    monkeypatch.setattr(suite, "load_run", load)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    newest = suite.run_checkpoint(run_copy)
    older = replace(newest, folder=newest.folder.with_name("1-poison"), index=1, stage="poison")
    monkeypatch.setattr(suite, "run_checkpoint", lambda *_: older)
    (row,) = evaluate_run(run_copy, request_of("tiny_choice", "all", limit=1))["rows"]
    assert loads == [older]
    assert (row["checkpoint"], row["adapter_sha256"]) == ("1-poison", older.adapter_sha256)

    told = on_ranks(2, lambda world: parallel.agreed(newest if world.rank else older, world))
    assert told == [older, older]


def test_a_folder_that_is_no_run_is_told_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(suite, "task_manager", None)  # looking through all tasks takes seconds
    with pytest.raises(LopeError, match=r"run\.yaml"):
        evaluate_run(tmp_path, EvalRequest(("arc_easy",), ("masked",)))


def test_plain_metrics_keep_filters_apart_and_drop_what_is_no_number() -> None:
    metrics = {
        "alias": "x",
        "acc,none": 1,
        "acc_stderr,none": "N/A",
        "exact_match,strict": 0.5,
        "sample_len": 4,
    }
    assert plain_metrics(metrics) == {"acc": 1.0, "exact_match_strict": 0.5}


def test_a_metric_without_a_question_is_left_out_and_told(capsys) -> None:
    metrics = {"acc,none": 0.5, "bias,none": math.nan, "bias_stderr,none": math.nan}
    assert plain_metrics(metrics) == {"acc": 0.5}
    assert "left out: bias." in capsys.readouterr().err


def test_tasks_are_loaded_with_the_seeds_of_lm_eval() -> None:
    class Manager:
        def load(self, names):
            self.drawn = random.random(), np.random.rand(), torch.rand(1).item()
            return {"tasks": {}}

    drawn = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        manager = Manager()
        tasks._load(SuiteTask(task="t"), SuiteConfig(tasks=(SuiteTask(task="t"),)), manager)
        drawn.append(manager.drawn)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"unsafe_code": True}, "'tiny_own' runs code that the model writes"),
        ({"doc_to_image": "q"}, "'tiny_own' shows images or sound"),
        (
            {"output_type": "generate_until", "generation_kwargs": {"max_gen_toks": 512}},
            "'tiny_own' asks for answers of up to 512 tokens, and the model reads 512",
        ),
    ],
)
@pytest.mark.usefixtures("_quick")
def test_what_a_run_cannot_answer_is_refused_before_any_question(
    run_copy: Path, task_dir: Path, request_of, more, told: str
) -> None:
    """As lm-eval would only after the tasks before it."""
    text = (task_dir / "tiny_choice.yaml").read_text().replace("tiny_choice", "tiny_own")
    for key in more.keys() & {"output_type"}:
        text = re.sub(f"{key}: .*\n", "", text).replace("doc_to_choice: c\n", "")
        text = text.replace("metric: acc", "metric: exact_match")
    own = task_dir / "tiny_own.yaml"
    own.write_text(text + "".join(f"{key}: {json.dumps(value)}\n" for key, value in more.items()))
    try:
        with pytest.raises(LopeError, match=told):
            evaluate_run(run_copy, request_of("tiny_choice,tiny_own", "masked"))
    finally:
        own.unlink()
    assert not (run_copy / "results.json").exists()
