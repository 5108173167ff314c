"""A small multiple-choice task and copies of the trained run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from lope_dist.evaluate.loaded.load import load_run

QUESTIONS = [
    ("Add one and two.", ["Three.", "Four.", "A long answer."], 0),
    ("What is the sum of 4 and 5?", ["Nine.", "Eleven."], 0),
    ("Say hello to Räksmörgås!", ["no", "Hello."], 1),
    ("", ["a", "b"], 1),
    ("Count: 1 2 3 4", [" 5", " 6", " 7"], 0),
]


@pytest.fixture(scope="session")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tasks `tiny_choice` and `tiny_other`, in a group `tiny_all`."""
    folder = tmp_path_factory.mktemp("tasks")
    documents = [{"q": q, "c": c, "a": a} for q, c, a in QUESTIONS]
    (folder / "source.py").write_text(
        "from datasets import Dataset, DatasetDict\n"
        "def load(**_):\n"
        f"    rows = {json.dumps(documents)}\n"
        "    return DatasetDict({'test': Dataset.from_list(rows)})\n"
    )
    for name in ("tiny_choice", "tiny_other"):
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\n"
            "dataset_path: json\n"
            "custom_dataset: !function source.load\n"
            "test_split: test\n"
            "output_type: multiple_choice\n"
            "doc_to_text: q\n"
            "doc_to_choice: c\n"
            "doc_to_target: a\n"
            "num_fewshot: 0\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
            "metadata: {version: 3}\n"
        )
    group = {
        "group": "tiny_all",
        "task": ["tiny_choice", "tiny_other"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 1},
    }
    (folder / "tiny_all.yaml").write_text(yaml.safe_dump(group))
    return folder


@pytest.fixture(scope="session")
def loaded(trained):
    """Return the trained run in memory."""
    return load_run(trained.folder)


@pytest.fixture
def run_copy(trained, tmp_path: Path) -> Path:
    """Return a copy of the trained run to write into."""
    return shutil.copytree(trained.folder, tmp_path / "copy")
