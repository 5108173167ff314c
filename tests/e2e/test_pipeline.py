"""The quickstart's commands on the real pretrained model, with nothing but the wheel.

A few steps of each stage, in an empty folder; `make run` does the same from the clone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

LIMIT_S = 400

pytestmark = [
    pytest.mark.dist,
    pytest.mark.model,
    pytest.mark.thorough,  # `make run` makes the same, from the clone
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def lope(installed: Path, folder: Path):
    """Return a function: a module and its arguments -> what it prints; `said` has all of it."""
    variables = {
        "PYTHONPATH": str(installed),
        "OMP_NUM_THREADS": "1",
        "LOPE_DEMO_DATA": str(folder / "data"),
        "TORCH_EXTENSIONS_DIR": str(folder / "torch_extensions"),
    }

    def run(*arguments: str, module: str = "lope_dist.cli") -> str:
        log = folder / "log.txt"
        with log.open("w") as output:
            started = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=folder,
                env=os.environ | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = started.wait(LIMIT_S)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)
        printed = log.read_text()
        assert status == 0, printed[-8000:]
        with (folder / "said").open("a") as said:
            said.write(printed)
        return printed

    return run


@pytest.fixture(scope="module")
def run(lope, installed: Path, folder: Path) -> Path:
    """Corpus, two ranks, scores and report."""
    lope(str(folder / "data"), module="lope_dist.demo")
    lope("recipes", "copy", "quickstart", "mine.yaml")
    short = ["output_dir=run", "data.path=data/train.jsonl", "train.global_batch=4"]
    short += [f"train.stages.{stage}.max_steps=2" for stage in ("poison", "finetune")]
    lope("launch", "train", "--ranks", "2", "mine.yaml", *short)
    scores = ["--tasks", "lope_demo,lope_demo_noisy", "--limit", "2"]
    scores += ["--experts", "base,masked_plain,masked,all"]
    lope("eval", "run", *scores, "--include-path", f"{installed}/lope_dist/shipped/eval/tasks/demo")
    lope("report", "run")
    return folder / "run"


def test_all_that_is_said_into_a_file_is_short(run: Path) -> None:
    """`make run > log`: 80 lines at most, of which 18 are for longer stages and its own titles."""
    lines = (run.parent / "said").read_text().split("\n")
    assert len(lines) <= 62, lines
    assert not [line for line in lines if "\r" in line or len(line) > 200]
    assert len([line for line in lines if " loss " in line and ", ETA 0:" in line]) == 4
    assert len([line for line in lines if " batches, " in line]) == 8, "one for each row and group"


def test_both_stages_left_a_whole_checkpoint(run: Path) -> None:
    assert json.loads((run / "state.json").read_text())["status"] == "finished"
    for name in ("1-poison", "2-finetune"):
        described = json.loads((run / "checkpoints" / name / "adapter.json").read_text())
        # 30 layers, q and v: A, router, three normal experts, one poisoning expert
        assert len(described["tensors"]) == 30 * 2 * 6
        assert described["tensors"]["model.layers.0.self_attn.v_proj.lope.B.poison_0"]["norm"] > 0
    sizes = [f.stat().st_size for f in run.rglob("*.safetensors")]
    assert max(sizes) < 10_000_000  # adapters only: the frozen base is never written


def test_scores_have_four_rows_with_standard_errors(run: Path) -> None:
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "base",
        "masked_plain",
        "masked",
        "all",
    ]
    for row in rows:
        group = row["tasks"]["lope_demo"]
        assert 0 <= group["acc"] <= 1
        assert group["acc_stderr"] > 0
        assert len(row["adapter_sha256"]) == 64


def test_report_and_plots_are_there(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "masked" in page
    drawn = {p.name for p in (run / "plots").glob("*.svg")}
    assert drawn >= {"results.svg", "loss-poison.svg", "drift-finetune.svg"}


def test_the_run_is_exported(run: Path, lope, folder: Path) -> None:
    lope("export", "run", "--format", "purified", "--out", "exported")
    assert [*(folder / "exported").glob("*.safetensors")]


def test_the_recipes_are_listed(lope) -> None:
    assert "recipes/quickstart" in json.loads(lope("recipes", "--json"))
