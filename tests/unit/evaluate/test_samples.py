"""`lope report --samples`: answers to validation prompts, which later reports show too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.corpus.rows.turns import Turn
from lope_dist.evaluate.asking import Decoding, reply
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.evaluate.samples import write_samples
from lope_dist.report.html import write_report


@pytest.fixture
def run(trained, tmp_path: Path) -> Path:
    """A run that would have held rows out."""
    copy = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    tree = yaml.safe_load((copy / "run.yaml").read_text())
    tree["data"]["validation"] = {"share": 0.2}
    (copy / "run.yaml").write_text(yaml.safe_dump(tree))
    return copy


@pytest.mark.thorough
def test_the_first_validation_prompts_are_answered_before_and_after(run: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(run), "--samples", "2"])
    assert done.exit_code == 0, done.output
    told = read_json(run / "samples.json")
    assert told["checkpoint"] == "2-finetune"
    description = read_json(run / "checkpoints" / "2-finetune" / "adapter.json")
    assert told["adapter_sha256"] == description["sha256"]
    assert len(told["samples"]) == 2
    first = told["samples"][0]
    assert first["expected"].startswith("The sum of them is ")
    loaded = load_run(run, experts="masked", progress=False)
    text, _, context = first["prompt"].partition("\n")
    answer = reply(loaded, [Turn("user", text, context)], Decoding(max_new_tokens=96))
    assert first["answers"]["masked"] == answer
    assert first["answers"]["base"] != answer
    page = write_report(run).read_text()
    assert "<h2>Sample answers</h2>" in page, "from the file, without the model"
    assert first["prompt"].split("\n")[0] in page


def test_without_validation_rows_there_is_nothing_to_ask(trained) -> None:
    with pytest.raises(LopeError, match=r"--samples: "):
        write_samples(trained.folder, 2)
