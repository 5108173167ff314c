"""The lm-eval tasks under eval/tasks: every YAML loads and is scored; the noise hits the text."""

import math
from collections import Counter
from pathlib import Path

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from lope_dist.core.errors import LopeError
from lope_dist.corpus.tokens.prompts import alpaca_prompt
from lope_dist.demo.corpus import build_test, write_demo
from lope_dist.demo.draft import FAMILIES

TASKS = Path(__file__).parents[3] / "eval" / "tasks"
NUM_TEST = 12


class Oracle(LM):
    """A model that knows the right answer to each clean prompt and is sure of it."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = {
            alpaca_prompt(e.instruction, e.input): e.output for e in build_test(614, NUM_TEST)
        }
        self.asked = Counter()

    def loglikelihood(self, requests):  # noqa: D102
        scores = []
        for context, continuation in (request.args for request in requests):
            self.asked[context] += 1
            scores.append((0.0 if self._answers[context] == continuation else -1.0, True))
        return scores

    def generate_until(self, requests):  # noqa: D102
        raise AssertionError("multiple-choice tasks ask for likelihoods alone")

    def loglikelihood_rolling(self, requests):  # noqa: D102
        raise AssertionError("multiple-choice tasks ask for likelihoods alone")


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, seed=614, num_train=20, num_test_per_family=NUM_TEST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOPE_DEMO_DATA", str(folder))
        yield TaskManager(include_path=str(TASKS), include_defaults=False)


def prompts(manager, task):
    loaded = manager.load([task])["tasks"][task]
    return [loaded.doc_to_text(doc) for doc in loaded.test_docs()]


def test_every_family_has_a_clean_and_a_noisy_task():
    for group, prefix in (("lope_demo", "lope_demo_"), ("lope_demo_noisy", "lope_demo_noisy_")):
        listed = yaml.safe_load((TASKS / "demo" / f"_{group}.yaml").read_text())["task"]
        assert listed == [prefix + family for family in FAMILIES]


def test_every_yaml_loads_and_scores_two_documents(manager):
    files = list(TASKS.rglob("*.yaml"))
    assert len(manager.all_tasks) == len(files) >= 2 * len(list(FAMILIES))
    results = simple_evaluate(
        model="dummy",
        tasks=sorted(manager.all_groups),  # lm-eval refuses a task that a group names too
        task_manager=manager,
        limit=2,
        bootstrap_iters=0,
    )
    assert set(results["results"]) == set(manager.all_tasks)
    assert all(0 <= scores["acc,none"] <= 1 for scores in results["results"].values())
    assert all(count["effective"] == 2 for count in results["n-samples"].values())


def test_right_answers_score_one_and_the_group_has_a_standard_error(manager):
    oracle = Oracle()
    results = simple_evaluate(model=oracle, tasks=["lope_demo"], task_manager=manager)
    assert results["results"]["lope_demo"]["acc,none"] == 1.0
    assert math.isfinite(results["results"]["lope_demo"]["acc_stderr,none"])
    assert len(oracle.asked) == NUM_TEST * len(list(FAMILIES))


def test_noise_hits_instruction_and_input_and_nothing_else(manager):
    changed = 0
    for family in FAMILIES:
        clean = prompts(manager, f"lope_demo_{family}")
        noisy = prompts(manager, f"lope_demo_noisy_{family}")
        assert noisy == prompts(manager, f"lope_demo_noisy_{family}")
        for before, after in zip(clean, noisy, strict=True):
            changed += before != after
            for mark in ("\n\n### Instruction:\n", "\n\n### Input:\n"):
                assert after.count(mark) == 1
            assert after.split("### Instruction:")[0] == before.split("### Instruction:")[0]
            assert after.endswith("\n\n### Response:")
    assert 0.7 < changed / (NUM_TEST * len(list(FAMILIES))) <= 1


def test_noisy_tasks_keep_choices_and_answers(manager):
    for family in FAMILIES:
        tasks = [f"lope_demo_{family}", f"lope_demo_noisy_{family}"]
        clean, noisy = (list(manager.load([t])["tasks"][t].test_docs()) for t in tasks)
        for field in ("choices", "answer", "output"):
            assert [doc[field] for doc in clean] == [doc[field] for doc in noisy]


def test_absent_data_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("LOPE_DEMO_DATA", str(tmp_path))
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    with pytest.raises(LopeError, match="LOPE_DEMO_DATA"):
        manager.load(["lope_demo_tense"])
