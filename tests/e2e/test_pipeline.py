"""The demo's own commands on the real pretrained model, a few steps of each stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lope_dist.core.ports import free_port

BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.dist, pytest.mark.model, pytest.mark.timeout(500)]


def _run(command: list[str], folder: Path, repository: Path) -> str:
    environment = os.environ | {
        "LOPE_DEMO_DATA": str(folder / "data"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "TORCH_EXTENSIONS_DIR": str(folder / "torch_extensions"),
    }
    done = subprocess.run(
        command,
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-8000:]
    with (folder / "said").open("a") as file:
        file.write(said)
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Corpus, `deepspeed` on two ranks, scores and report."""
    folder = tmp_path_factory.mktemp("pipeline")
    _run([sys.executable, "-m", "lope_dist.demo", str(folder / "data")], folder, repository)
    port = free_port()
    overrides = [
        f"output_dir={folder / 'run'}",
        f"data.path={folder / 'data' / 'train.jsonl'}",
        "train.global_batch=4",
        "train.stages.poison.max_steps=2",
        "train.stages.finetune.max_steps=2",
    ]
    launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(port), "--no_local_rank"]
    launcher += ["--log_level", "error"]
    recipe = ["launch/train.py", "--config", "configs/recipes/quickstart.yaml"]
    _run([str(BIN / launcher[0]), *launcher[1:], *recipe, *overrides], folder, repository)
    scores = [
        "--tasks",
        "lope_demo,lope_demo_noisy",
        "--experts",
        "base,masked_plain,masked,all",
        "--limit",
        "2",
    ]
    where = ["--include-path", "eval/tasks/demo"]
    _run([str(BIN / "lope"), "eval", str(folder / "run"), *scores, *where], folder, repository)
    _run([str(BIN / "lope"), "report", str(folder / "run")], folder, repository)
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
