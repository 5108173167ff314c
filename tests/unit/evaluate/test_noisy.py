"""Noisy variants: questions change, nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lope_dist.config.noise import TextNoiseConfig
from lope_dist.config.suite import SuiteConfig, SuiteGroup, SuiteNoise, SuiteTask
from lope_dist.core.errors import LopeError
from lope_dist.evaluate.harness.tasks import load_tasks, task_manager


def load(task_dir: Path, rate: float | None, *names: str, **settings: Any):
    noise = None
    if rate is not None:
        noise = SuiteNoise(text=TextNoiseConfig(rate=rate), seed=settings.pop("seed", 614))
    entries = tuple(SuiteTask(task=name, question=("q",), **settings) for name in names)
    suite = SuiteConfig(tasks=entries, noise=noise)
    return load_tasks(suite, task_manager(str(task_dir)), str(task_dir))


def prompts(task: Any) -> list[tuple[str, list[str], int]]:
    """Context, continuations and right answer of each document, as lm-eval asks for them."""
    task.build_all_requests()
    return [(i.args, i.doc["c"], i.doc["a"]) for i in task.instances]


def test_questions_change_and_choices_and_answers_do_not(task_dir: Path) -> None:
    clean = load(task_dir, None, "tiny_choice").tasks()["tiny_choice"]
    noisy = load(task_dir, 0.5, "tiny_choice").tasks()["tiny_choice_noisy"]
    pairs = list(zip(prompts(clean), prompts(noisy), strict=True))
    assert sum(a[0][0] != b[0][0] for a, b in pairs) > len(pairs) // 2
    for (clean_args, *clean_rest), (noisy_args, *noisy_rest) in pairs:
        assert clean_args[1] == noisy_args[1]
        assert clean_rest == noisy_rest


def test_rate_zero_asks_the_clean_questions(task_dir: Path) -> None:
    clean = load(task_dir, None, "tiny_choice").tasks()["tiny_choice"]
    same = load(task_dir, 0.0, "tiny_choice").tasks()["tiny_choice_noisy"]
    assert prompts(clean) == prompts(same)


def test_noise_depends_on_seed_and_task_alone(task_dir: Path) -> None:
    first = prompts(load(task_dir, 0.5, "tiny_choice").tasks()["tiny_choice_noisy"])
    both = load(task_dir, 0.5, "tiny_other", "tiny_choice").tasks()
    assert prompts(both["tiny_choice_noisy"]) == first
    assert prompts(both["tiny_other_noisy"]) != first
    other = load(task_dir, 0.5, "tiny_choice", seed=1).tasks()["tiny_choice_noisy"]
    assert prompts(other) != first


def test_a_group_becomes_a_noisy_group(task_dir: Path) -> None:
    loaded = load(task_dir, 0.5, "tiny_all")
    assert set(loaded.tasks()) == {"tiny_choice_noisy", "tiny_other_noisy"}
    assert list(loaded.groups) == ["tiny_all_noisy"]
    assert loaded.groups["tiny_all_noisy"].child_names == ["tiny_choice_noisy", "tiny_other_noisy"]


@pytest.fixture
def shots_dir(tmp_path: Path) -> Path:
    """Return a folder with `shots`, examples from another split, and `same`, from its own."""
    (tmp_path / "data.py").write_text(
        "from datasets import Dataset, DatasetDict\n"
        "def rows(word):\n"
        "    return Dataset.from_list([{'q': f'{word} number {i} of all the questions',"
        " 'c': ['yes', 'no'], 'a': i % 2} for i in range(8)])\n"
        "def load(**_):\n"
        "    return DatasetDict({'test': rows('scored'), 'dev': rows('shown')})\n"
    )
    for name, split in (("shots", "dev"), ("same", "test")):
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ncustom_dataset: !function data.load\n"
            f"test_split: test\nfewshot_split: {split}\noutput_type: multiple_choice\n"
            "doc_to_text: q\ndoc_to_choice: c\ndoc_to_target: a\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        )
    return tmp_path


def test_few_shot_examples_stay_clean(shots_dir: Path) -> None:
    def contexts(rate: float | None) -> list[str]:
        (task,) = load(shots_dir, rate, "shots", num_fewshot=2).tasks().values()
        task.set_fewshot_seed(1)
        return [args[0] for args, *_ in prompts(task)]

    for clean, noisy in zip(contexts(None), contexts(0.9), strict=True):
        assert clean.count("shown") == 2
        shown, scored = clean.rsplit("\n\n", 1)
        assert noisy.startswith(shown)
        assert not noisy.endswith(scored)


def test_few_shot_examples_of_the_scored_documents_are_refused(shots_dir: Path) -> None:
    with pytest.raises(LopeError, match=r"'same' .*num_fewshot 0"):
        load(shots_dir, 0.1, "same", num_fewshot=2)
    assert load(shots_dir, 0.1, "same", num_fewshot=0)
    assert load(shots_dir, None, "same", num_fewshot=2)


def test_what_is_no_text_is_told_with_what_is(task_dir: Path) -> None:
    suite = SuiteConfig(tasks=(SuiteTask(task="tiny_choice", question=("c",)),), noise=SuiteNoise())
    with pytest.raises(LopeError, match=r"'tiny_choice': 'c' .* q"):
        load_tasks(suite, task_manager(str(task_dir)), "here")


@pytest.mark.parametrize(
    ("tasks", "groups", "message"),
    [
        (["tiny_chioce"], {}, "'tiny_chioce' .*'tiny_choice'"),
        (["tiny_all", "tiny_other"], {}, "'tiny_other' .*'tiny_all' "),
        (["tiny_choice"], {"g": ["tiny_other"]}, "groups.g: 'tiny_other' "),
        (["tiny_all"], {"tiny_all": ["tiny_other"]}, "groups.tiny_all: "),
    ],
)
def test_suites_that_do_not_fit_are_told(
    task_dir: Path, tasks: list[str], groups: dict[str, list[str]], message: str
) -> None:
    suite = SuiteConfig(
        tasks=tuple(SuiteTask(task=name) for name in tasks),
        groups={name: SuiteGroup(tasks=tuple(members)) for name, members in groups.items()},
    )
    with pytest.raises(LopeError, match=message):
        load_tasks(suite, task_manager(str(task_dir)), "here")


def test_a_group_over_a_metric_that_no_task_has_is_told(task_dir: Path) -> None:
    suite = SuiteConfig(
        tasks=(SuiteTask(task="tiny_all"),),
        groups={"g": SuiteGroup(tasks=("tiny_choice", "tiny_other"), metric="acc_norm")},
    )
    message = r"groups.g.metric: no task of the group has 'acc_norm'; they have acc. Did you mean"
    with pytest.raises(LopeError, match=message):
        load_tasks(suite, task_manager(str(task_dir)), "here")


def test_noise_without_a_question_to_corrupt_is_refused(task_dir: Path) -> None:
    suite = SuiteConfig(tasks=(SuiteTask(task="tiny_choice"),), noise=SuiteNoise())
    with pytest.raises(LopeError, match=r"'noise' .*'question'"):
        load_tasks(suite, task_manager(str(task_dir)), "here")


def test_few_shots_for_a_task_that_takes_none_are_refused(task_dir: Path) -> None:
    with pytest.raises(LopeError, match=r"'tiny_choice' .*num_fewshot: 0"):
        load(task_dir, None, "tiny_choice", num_fewshot=2)


def test_data_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text(
        "task: gone\ndataset_path: json\ndataset_kwargs: {data_files: {test: /no/such.json}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: q\n"
        "doc_to_choice: c\ndoc_to_target: a\n"
    )
    with pytest.raises(LopeError, match=r"'gone'.*FileNotFoundError"):
        load(tmp_path, None, "gone")
