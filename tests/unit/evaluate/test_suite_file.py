from __future__ import annotations

from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.evaluate.harness.suite_file import SUITES, load_suite

NAMES = sorted(file.stem for file in SUITES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_suite_is_valid(name: str) -> None:
    suite = load_suite(name)
    assert suite.tasks
    assert (suite.noise is not None) == name.endswith("_noisy")


def test_the_papers_groups_are_whole() -> None:
    suite = load_suite("paper")
    assert [entry.task for entry in suite.tasks] == [
        "mmlu",
        "piqa",
        "social_iqa",
        "gsm8k",
        "arc_easy",
    ]
    sizes = {name: len(set(group.tasks)) for name, group in suite.groups.items()}
    assert sizes == {"mmlu_nset": 18, "mmlu_sbh": 8, "mmlu_history": 4, "piqa_siqa": 2}
    noisy = load_suite("paper_noisy")
    assert (noisy.tasks, noisy.groups) == (suite.tasks, suite.groups)


def test_an_unknown_suite_is_told_with_all_there_are() -> None:
    with pytest.raises(LopeError) as caught:
        load_suite("papre")
    assert all(name in str(caught.value) for name in NAMES)
    assert str(caught.value).endswith("Did you mean 'paper'?")
    with pytest.raises(LopeError, match="neither a YAML file"):
        load_suite("no/such.yaml")


def test_include_path_is_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("include_path: tasks\ntasks: [{task: x}]\n")
    assert load_suite(str(file)).include_path == str(tmp_path / "tasks")
    (tmp_path / "more").mkdir()
    including = tmp_path / "more" / "mine.yaml"
    including.write_text("include: ../own.yaml\n")
    assert load_suite(str(including)).include_path == str(tmp_path / "more" / "tasks")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: []", "tasks"),
        ("tasks: [{tsk: x}]", "'tsk' in tasks.0. .*'task'"),
        ("tasks: [{task: x, limit: 0}]", r"tasks.0.limit"),
        ("tasks: [{task: x}]\nnoise: {text: {fields: [input]}}", "noise.text: fields"),
        (
            "tasks: [{task: x}]\nnoise: {text: {responses: {rate: 0.1}}}",
            "noise.text: .*responses",
        ),
        (
            "tasks: [{task: x}]\nnoise: {text: {operations: [wrong_label]}}",
            "noise.text.operations: 'wrong_label'",
        ),
        (
            "tasks: [{task: x}]\nnoise: {text: {unit: character, operations: [word_order]}}",
            "noise.text.operations: 'word_order' .*'character'. Allowed",
        ),
        (
            "tasks: [{task: x}]\nnoise: {text: {operations: [char_inset]}}",
            "noise.text.operations.*'char_insert'",
        ),
    ],
)
def test_what_is_wrong_in_a_suite_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(LopeError, match=message) as caught:
        load_suite(str(file))
    assert str(file) in str(caught.value)
