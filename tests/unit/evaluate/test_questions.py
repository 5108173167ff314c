"""Each question's score, kept beside the figures that are made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lope_dist.core.questions import read_scores
from lope_dist.core.runlog import read_json, write_json
from lope_dist.evaluate.harness import suite
from lope_dist.evaluate.harness.results import question_scores, read_results
from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run


@pytest.fixture(autouse=True)
def _quick(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the run that is in memory already."""
    monkeypatch.setattr(suite, "load_run", lambda folder, **_: loaded)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def known(run: Path, row: str, task: str, metric: str = "acc") -> list[tuple[float, dict]]:
    """Return (share, scores) of each task behind a figure of `results.json`."""
    (entry,) = [entry for entry in read_results(run)["rows"] if entry["name"] == row]
    return [(one.share, one.scores) for one in read_scores(run, entry, task, metric)]


def asked(task_dir: Path, tasks: str, *experts: str, **settings) -> EvalRequest:
    return EvalRequest((tasks,), experts, str(task_dir), batch_size=2, **settings)


def test_the_scores_are_those_of_lm_evals_samples(run_copy: Path, task_dir: Path, loaded) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from lope_dist.evaluate.harness.lm import LopeLM

    evaluate_run(run_copy, asked(task_dir, "tiny_choice", "none", "all:scale=0.5"))
    raw = simple_evaluate(
        model=LopeLM(loaded, "all:scale=0.5", batch_size=1),
        tasks=["tiny_choice"],
        task_manager=TaskManager(include_path=str(task_dir), include_defaults=False),
    )
    theirs = {sample["doc_id"]: sample["acc"] for sample in raw["samples"]["tiny_choice"]}
    assert known(run_copy, "all:scale=0.5", "tiny_choice") == [(1.0, theirs)]
    ((_, base),) = known(run_copy, "base", "tiny_choice")
    assert list(base) == [0, 1, 2, 3, 4]
    names = {path.name for path in (run_copy / "questions").iterdir()}
    assert names == {"base", "all%3Ascale%3D0.5"}
    for row in read_results(run_copy)["rows"]:
        assert set(row["tasks"]["tiny_choice"]) == {
            *("acc", "acc_stderr", "num_docs"),
            *("num_fewshot", "defined_num_fewshot", "limit", "version", "chat_template"),
            "task_files",
        }


def test_a_run_that_was_scored_without_them_is_not_scored_again(
    run_copy: Path, task_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(task_dir, "tiny_all", "all")
    table = evaluate_run(run_copy, request)
    shutil.rmtree(run_copy / "questions")
    monkeypatch.setattr(suite, "load_run", None)
    assert evaluate_run(run_copy, request) == table
    assert known(run_copy, "all", "tiny_choice") == []
    assert known(run_copy, "all", "tiny_all") == []


def test_scores_of_other_settings_or_another_adapter_are_not_mixed_in(
    run_copy: Path, task_dir: Path
) -> None:
    evaluate_run(run_copy, asked(task_dir, "tiny_choice", "none", "all", limit=4))
    kept = run_copy / "questions/all/tiny_choice.json"
    older = kept.read_bytes()
    evaluate_run(run_copy, asked(task_dir, "tiny_choice", "all"))
    ((_, scores),) = known(run_copy, "all", "tiny_choice")
    assert len(scores) == 5
    newer = kept.read_bytes()
    kept.write_bytes(older)
    assert known(run_copy, "all", "tiny_choice") == []

    kept.write_bytes(newer)
    table = read_json(run_copy / "results.json")
    for row in table["rows"]:
        row["adapter_sha256"] = "0" * 64
    write_json(run_copy / "results.json", table)
    assert known(run_copy, "all", "tiny_choice") == []
    assert known(run_copy, "base", "tiny_choice") != []  # the same under any adapter


def test_scores_that_do_not_make_the_figure_are_not_shown(run_copy: Path, task_dir: Path) -> None:
    table = evaluate_run(run_copy, asked(task_dir, "tiny_choice", "all"))
    table["rows"][0]["tasks"]["tiny_choice"]["acc"] += 0.2
    write_json(run_copy / "results.json", table)
    assert known(run_copy, "all", "tiny_choice") == []


def test_scoring_again_writes_them_again(run_copy: Path, task_dir: Path) -> None:
    evaluate_run(run_copy, asked(task_dir, "tiny_choice", "all"))
    kept = run_copy / "questions/all/tiny_choice.json"
    whole = kept.read_bytes()
    kept.unlink()
    evaluate_run(run_copy, asked(task_dir, "tiny_choice", "all", rescore=True))
    assert kept.read_bytes() == whole


@pytest.mark.parametrize(("by_size", "shares"), [(True, [2 / 7, 5 / 7]), (False, [0.5, 0.5])])
def test_a_group_has_the_share_of_each_task(
    run_copy: Path, task_dir: Path, tmp_path: Path, by_size: bool, shares: list[float]
) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(
        f"include_path: {task_dir}\n"
        "tasks: [{task: tiny_choice, limit: 2}, {task: tiny_other}]\n"
        "groups:\n"
        f"  mine: {{tasks: [tiny_choice, tiny_other], weight_by_size: {str(by_size).lower()}}}\n"
    )
    evaluate_run(run_copy, EvalRequest(experts=("all",), suite=str(file), batch_size=2))
    found = known(run_copy, "all", "mine")
    assert [share for share, _ in found] == pytest.approx(shares)
    assert [len(scores) for _, scores in found] == [2, 5]


def test_noisy_questions_are_kept_beside_the_clean_ones(
    run_copy: Path, task_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "noisy.yaml"
    file.write_text(
        f"include_path: {task_dir}\ntasks: [{{task: tiny_all, question: [q]}}]\n"
        "noise: {text: {rate: 0.5}}\n"
    )
    evaluate_run(run_copy, EvalRequest(experts=("all",), suite=str(file), batch_size=2))
    assert [share for share, _ in known(run_copy, "all", "tiny_all_noisy")] == [0.5, 0.5]
    kept = read_json(run_copy / "questions/all/tiny_choice_noisy.json")
    assert kept["depends_on"]["noise"]["text"]["rate"] == 0.5


def test_only_means_over_questions_are_kept_and_filters_stay_apart() -> None:
    def sample(number: int, kind: str, exact: bool, nats: float) -> dict:
        metrics = {"exact_match": float(exact), "f1": (1, 0), "perplexity": nats, "ter": 0.5}
        return {"doc_id": number, "filter": kind, "metrics": list(metrics), **metrics}

    samples = [
        *(sample(i, "strict", i == 0, -2.0) for i in range(4)),
        *(sample(i, "none", i < 3, -2.0) for i in range(4)),
    ]
    figures = {"exact_match_strict": 0.25, "exact_match": 0.75, "f1": 0.3, "perplexity": 7.39}
    assert question_scores(samples, figures) == {
        "exact_match_strict": {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0},
        "exact_match": {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0},
    }
