"""Accuracies of two rows, question by question."""

import json
import shutil

import numpy as np
import pytest
from support.study_runs import write_answers

from lope_dist.core.questions import write_shares
from lope_dist.study.compare import compare
from lope_dist.study.observe import observe

MEANS = {"both": ["acc:piqa", "acc:siqa"]}


@pytest.fixture
def study(make_study):
    variants = {"lope": {"rows": ["masked", "all"]}}
    suites = {"s": {"tasks": ["piqa", "siqa", "group"]}}
    return make_study(
        seeds=[1, 2],
        variants=variants,
        baseline="lope/all",
        means=MEANS,
        evaluate={"suites": suites},
    )


def answers(share: float, size: int, seed: int = 0) -> list[bool]:
    return [bool(right) for right in np.random.default_rng(seed).random(size) < share]


def write(study, masked: dict[str, list[bool]], unmasked: dict[str, list[bool]]) -> None:
    for cell in study.cells:
        write_answers(cell, {"masked": masked, "all": unmasked})


def effect_of(study, metric: str):
    found = observe(study)
    return compare(found.series("lope", "masked", metric), found.series("lope", "all", metric))


def width(effect) -> float:
    low, high = effect.ci95
    return high - low


def test_rows_that_answer_alike_are_told_apart_by_the_questions_in_which_they_do_not(study):
    unmasked = answers(0.6, 500)
    masked = [right or i % 20 == 0 for i, right in enumerate(unmasked)]
    write(study, {"piqa": masked}, {"piqa": unmasked})
    paired = effect_of(study, "acc:piqa")
    gain = np.array(masked, float) - np.array(unmasked, float)
    assert paired.mean == pytest.approx(gain.mean())
    assert width(paired) == pytest.approx(2 * 1.96 * gain.std() / 500**0.5, rel=0.1)
    assert paired.ci95[0] > 0
    assert paired.over == "documents and seeds"

    for cell in study.cells:
        shutil.rmtree(cell.folder / "questions")  # a run that was scored before they were kept
    alone = effect_of(study, "acc:piqa")
    assert alone.mean == paired.mean
    assert alone.ci95[0] < 0
    assert width(alone) > 4 * width(paired)
    assert alone.over == "unpaired documents and seeds"


def test_rows_that_were_asked_other_questions_are_not_paired(study):
    write(study, {"piqa": answers(0.6, 300)}, {"piqa": answers(0.6, 200)})
    effect = effect_of(study, "acc:piqa")
    assert effect.over == "unpaired documents and seeds"
    assert effect.ci95[0] < effect.mean < effect.ci95[1]


def test_scores_that_are_older_than_the_figures_are_not_used(study):
    write(study, {"piqa": answers(0.6, 300)}, {"piqa": answers(0.6, 300, seed=1)})
    path = study.cells[0].folder / "results.json"
    table = json.loads(path.read_text())
    table["rows"][0]["tasks"]["piqa"]["num_fewshot"] = 5
    path.write_text(json.dumps(table))
    assert effect_of(study, "acc:piqa").over == "unpaired documents and seeds"


def test_a_mean_over_tasks_draws_the_questions_of_each_task_by_themselves(study):
    masked = {"piqa": [True] * 30, "siqa": answers(0.5, 400)}
    unmasked = {"piqa": [False] * 30, "siqa": masked["siqa"]}
    write(study, masked, unmasked)
    effect = effect_of(study, "both")
    assert effect.mean == pytest.approx(0.5)  # not by size
    assert effect.ci95 == pytest.approx((0.5, 0.5))  # however the questions of a task are drawn
    assert effect.over == "documents and seeds"


def test_the_interval_of_a_mean_over_tasks_is_that_of_independent_means(study):
    masked = {"piqa": answers(0.7, 100, 1), "siqa": answers(0.6, 900, 2)}
    unmasked = {"piqa": answers(0.5, 100, 3), "siqa": answers(0.5, 900, 4)}
    write(study, masked, unmasked)
    parts = [np.array(masked[task], float) - np.array(unmasked[task], float) for task in masked]
    effect = effect_of(study, "both")
    assert effect.mean == pytest.approx(np.mean([part.mean() for part in parts]))
    error = np.hypot(*(part.std() / len(part) ** 0.5 for part in parts)) / 2
    assert width(effect) == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_group_is_paired_by_the_questions_of_its_tasks(study):
    right = answers(0.5, 300)
    sides = {
        "masked": {"a": [True] * 100, "b": right},
        "all": {"a": [False] * 100, "b": right},
    }
    for cell in study.cells:
        write_answers(cell, sides)
        path = cell.folder / "results.json"
        table = json.loads(path.read_text())
        for entry in table["rows"]:
            mean = (100 * entry["tasks"]["a"]["acc"] + 300 * entry["tasks"]["b"]["acc"]) / 400
            entry["tasks"]["group"] = {"acc": mean, "acc_stderr": 0.02}
            shares = {"acc": {"a": 0.25, "b": 0.75}}
            write_shares(cell.folder, entry["name"], "group", shares)
        path.write_text(json.dumps(table))
    effect = effect_of(study, "acc:group")
    assert effect.mean == pytest.approx(0.25)
    assert effect.ci95 == pytest.approx((0.25, 0.25))
