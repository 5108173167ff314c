"""What is scored is not scored again, and a killed evaluation goes on from its answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lope_dist.core.runlog import read_json
from lope_dist.evaluate.harness import suite
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run

KILLED = """
import os, signal, sys
from pathlib import Path
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run

calls, whole = [], LopeLM._loglikelihood_tokens
def counted(self, requests, **options):
    model_call = self._model_call
    def dying(*arguments, **settings):
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return model_call(*arguments, **settings)
    self._model_call = dying
    return whole(self, requests, **options)
LopeLM._loglikelihood_tokens = counted
evaluate_run(Path(sys.argv[1]), EvalRequest(("tiny_choice",), ("all",), sys.argv[2], batch_size=2))
"""


class Killed(BaseException):
    """The process dies."""


@pytest.fixture
def passes(loaded, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the batch sizes of the forward passes over requests, as they are made."""
    sizes: list[int] = []
    call = LopeLM._model_call

    def counted(self, inps, *arguments, **options):
        sizes.append(len(inps))
        return call(self, inps, *arguments, **options)

    monkeypatch.setattr(suite, "load_run", lambda folder, **_: loaded)
    monkeypatch.setattr(LopeLM, "_model_call", counted)
    return sizes


def asked(task_dir: Path, tasks: str, **settings) -> EvalRequest:
    return EvalRequest((tasks,), ("all",), str(task_dir), batch_size=2, **settings)


def test_a_killed_evaluation_goes_on_from_its_answers(
    run_copy: Path, task_dir: Path, passes: list[int]
) -> None:
    whole = evaluate_run(run_copy, asked(task_dir, "tiny_choice"))["rows"]
    (questions,) = (run_copy / "questions").rglob("*.json")
    scores = questions.read_bytes()
    needed = sum(passes)
    passes.clear()
    (run_copy / "results.json").unlink()
    questions.unlink()
    command = [sys.executable, "-c", KILLED, str(run_copy), str(task_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (run_copy / "results.json").exists()
    assert list((run_copy / "answers").rglob("*.jsonl"))
    assert evaluate_run(run_copy, asked(task_dir, "tiny_choice"))["rows"] == whole
    assert sum(passes) == needed - 3 * 2
    assert questions.read_bytes() == scores
    assert not (run_copy / "answers").exists()


def test_answers_of_a_killed_task_outlive_the_scoring_of_another(
    run_copy: Path, task_dir: Path, passes: list[int]
) -> None:
    evaluate_run(run_copy, asked(task_dir, "tiny_choice"))
    needed = sum(passes)
    (run_copy / "results.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        call, calls = LopeLM._model_call, []

        def dying(*arguments, **options):
            if len(calls) == 3:
                raise Killed
            calls.append(0)
            return call(*arguments, **options)

        patch.setattr(LopeLM, "_model_call", dying)
        with pytest.raises(Killed):
            evaluate_run(run_copy, asked(task_dir, "tiny_choice"))
    assert list((run_copy / "answers").rglob("*.jsonl"))
    evaluate_run(run_copy, asked(task_dir, "tiny_other"))
    passes.clear()
    evaluate_run(run_copy, asked(task_dir, "tiny_choice"))
    assert sum(passes) == needed - 3 * 2
    assert not (run_copy / "answers").exists()


def test_what_is_scored_is_not_scored_again(
    run_copy: Path, task_dir: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_run(run_copy, asked(task_dir, "tiny_choice"))
    asked_once = sum(passes)
    evaluate_run(run_copy, asked(task_dir, "tiny_all"))  # the other task of the group alone
    assert sum(passes) == 2 * asked_once
    evaluate_run(run_copy, asked(task_dir, "tiny_choice", limit=1))
    assert sum(passes) > 2 * asked_once
    table = evaluate_run(run_copy, asked(task_dir, "tiny_choice", rescore=True))
    assert table["rows"][0]["tasks"]["tiny_choice"] == first["rows"][0]["tasks"]["tiny_choice"]
    monkeypatch.setattr(suite, "load_run", None)  # no weights are read where nothing is open
    assert evaluate_run(run_copy, asked(task_dir, "tiny_choice")) == table
    assert read_json(run_copy / "results.json") == table


def test_changed_task_files_are_scored_again_once(
    run_copy: Path, task_dir: Path, tmp_path: Path, passes: list[int]
) -> None:
    files = shutil.copytree(task_dir, tmp_path / "tasks")
    both = EvalRequest(("tiny_choice", "tiny_other"), ("all",), str(files), batch_size=2)
    evaluate_run(run_copy, both)
    needed = sum(passes)
    passes.clear()
    (files / "__pycache__").mkdir()
    (files / "__pycache__/source.cpython-311.pyc").write_bytes(b"compiled by Python")
    evaluate_run(run_copy, both)
    assert passes == []
    (files / "source.py").write_text((files / "source.py").read_text() + "# other\n")
    evaluate_run(run_copy, asked(files, "tiny_choice"))  # all that a stopped one has scored
    assert sum(passes) == needed / 2
    evaluate_run(run_copy, both)
    assert sum(passes) == needed


@pytest.mark.usefixtures("passes")
def test_nothing_else_is_printed_where_json_may_be(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "Count: 1 2", "a": "3"}\n')
    (tmp_path / "counted.yaml").write_text(
        "task: counted\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "doc_to_text: q\ndoc_to_target: a\ngeneration_kwargs: {max_gen_toks: 2, until: [x]}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    evaluate_run(run_copy, EvalRequest(("counted",), ("all",), str(tmp_path), batch_size="auto"))
    assert capsys.readouterr().out == ""


def test_noisy_scores_stand_beside_the_clean_ones(
    run_copy: Path, task_dir: Path, tmp_path: Path, passes: list[int]
) -> None:
    file = tmp_path / "noisy.yaml"

    def score(rate: float) -> dict:
        file.write_text(
            f"include_path: {task_dir}\ntasks: [{{task: tiny_all, question: [q]}}]\n"
            f"noise: {{text: {{rate: {rate}}}}}\n"
        )
        request = EvalRequest(experts=("all",), suite=str(file), batch_size=2)
        return evaluate_run(run_copy, request)["rows"][0]["tasks"]

    evaluate_run(run_copy, asked(task_dir, "tiny_all"))
    assert set(score(0.5)) == {
        *("tiny_choice", "tiny_other", "tiny_all"),
        *("tiny_choice_noisy", "tiny_other_noisy", "tiny_all_noisy"),
    }
    before = len(passes)
    assert score(0.25)["tiny_choice_noisy"]["noise"]["text"]["rate"] == 0.25
    assert len(passes) > before, "another rate is another score"
