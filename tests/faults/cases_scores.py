"""Scores do not depend on the number of ranks."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from faults.base import case
from faults.hosts import INTERFACE, hosts
from faults.launchers import (
    by_torchrun,
    recipe,
    start,
    succeed,
    training,
)

SCORES = "Scores"

TASK = """
task: bytes_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
output_type: {kind}
test_split: test
fewshot_split: train
num_fewshot: {shots}
{rest}
"""


def _tasks(folder: Path) -> Path:
    """Write a multiple-choice and a generation task of 23 documents, with drawn few-shots."""
    rows = [
        {"question": f"{i} plus {i % 5}", "answers": ["yes", "no", f"it is {i}"], "gold": i % 3}
        for i in range(23)
    ]
    tasks = folder / "tasks"
    tasks.mkdir()
    data = tasks / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = 'doc_to_text: "Q: {{question}} A:"\n'
    choice = prompt + "doc_to_choice: answers\ndoc_to_target: gold\nmetric_list: [{metric: acc}]"
    answer = prompt + (
        'doc_to_target: "{{answers[2]}}"\nmetric_list: [{metric: exact_match}, {metric: ter}]\n'
        "generation_kwargs: {max_gen_toks: 8, until: [x]}"
    )
    text = (
        'doc_to_text: ""\ndoc_to_target: "{{question}}"\nmetric_list: [{metric: byte_perplexity}]'
    )
    for name, kind, rest in (
        ("choice", "multiple_choice", choice),
        ("answer", "generate_until", answer),
        ("text", "loglikelihood_rolling", text),
    ):
        task = TASK.format(
            name=name, kind=kind, data=data, rest=rest, shots=0 if name == "text" else 2
        )
        (tasks / f"{name}.yaml").write_text(task)
    return tasks


@case(
    "scores on two hosts equal one process'",
    group=SCORES,
    states="`launch/eval.py` on 2 hosts gives every score and standard error of `lope eval`, to "
    "the last digit: choices and generation with few-shot examples, perplexity; 23 documents.",
    in_ci=True,
)
def _scores(folder: Path) -> dict[str, Any]:
    tasks = _tasks(folder)
    with hosts(1, folder / "one") as one:
        succeed([start(one, 0, [sys.executable, *training(recipe(folder, steps=3))], "train")])
        lope = [sys.executable, "-c", "from lope_dist.cli import main; main()"]
        options = ["--tasks", "bytes_choice,bytes_answer,bytes_text", "--experts", "masked,none"]
        options += ["--include-path", str(tasks), "--batch-size", "1"]
        single = start(one, 0, [*lope, "eval", str(folder / "run"), *options], "single")
        succeed([single])
    results = folder / "run" / "results.json"
    alone = json.loads(results.read_text())
    results.unlink()
    with hosts(2, folder / "hosts") as group:
        command = ["launch/eval.py", str(folder / "run"), *options]
        begin = time.monotonic()
        launches = by_torchrun(group, [*command, "--interface", INTERFACE])
        succeed(launches)
        seconds = time.monotonic() - begin
    assert json.loads(results.read_text()) == alone
    assert {row["name"] for row in alone["rows"]} == {"base", "masked"}
    for row in alone["rows"]:
        assert row["tasks"]["bytes_choice"]["acc_stderr"] > 0
        assert "ter" in row["tasks"]["bytes_answer"]
        assert row["tasks"]["bytes_text"]["byte_perplexity"] > 1
    return {"two hosts (s)": round(seconds, 1)}
