"""The benchmarks run, on shapes of no interest, and say what they must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def bench(repository: Path, tmp_path: Path):
    """Return a function: script and arguments -> (its last line as JSON, the file it wrote)."""

    def run(script: str, *arguments: str) -> tuple[dict, dict]:
        variables = {"BENCH_RESULTS": str(tmp_path), "PYTHONPATH": str(repository)}
        ended = subprocess.run(
            [sys.executable, f"bench/{script}.py", *arguments],
            cwd=repository,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        written = json.loads((tmp_path / f"{script}.json").read_text())
        return json.loads(ended.stdout.splitlines()[-1]), written

    return run


def test_every_piece_of_the_gpu_script_runs_without_a_gpu(bench) -> None:
    printed, written = bench("gpu", "--shape", "tiny", "--device", "cpu", "--steps", "1")
    assert printed == written
    figures = printed["figures"]
    for piece in ("load", "train", "trainer", "long", "masked", "profile"):
        assert figures[piece], piece
        assert "out_of_memory" not in figures[piece]
    assert set(figures["train"]) == {
        f"{kind}_{length}{mode}"
        for kind in ("lope", "lora")
        for length in (64, 128)
        for mode in ("", "_recomputing")
    }
    one = figures["train"]["lope_64"]
    # 4 N a token: two layers of 4 x 128 x 128 + 3 x 128 x 256, and a head of 1000 x 128
    weights = 2 * (4 * 128**2 + 3 * 128 * 256) + 128_000
    assert one["tflops"] == pytest.approx(4 * weights * one["tokens_per_s"] / 1e12, abs=6e-4)
    assert {"tokens_per_s_over_trainer", "masked_compensated_over_plain"} <= set(printed["ratios"])


def test_the_adapters_benchmark_says_its_claims(bench) -> None:
    printed, _ = bench("adapter", "--tokens", "64", "--width", "64", "--repeats", "3")
    ratios = printed["ratios"]
    assert set(printed["targets"]) <= set(ratios)
    assert ratios["hydra_saved_bytes_over_ours"] > 2  # counts, not times
    assert printed["machine"]["versions"]["torch"]


def test_the_page_marks_what_is_missed(repository: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "bench"))
    import write_docs

    result = {
        "ratios": {"a": 1.2, "b": 1.2},
        "targets": {"a": "<= 1.1", "b": ">= 1.1"},
        "figures": {"length": {"rows": [{"length": 64, "step_s": 0.5}], "slopes": {}}},
    }
    page = write_docs.page({"x": result})
    assert "| a | 1.200 | <= 1.1 **missed** |" in page
    assert "| b | 1.200 | >= 1.1 |" in page
    assert "| 64 | 0.5 |" in page


def test_the_wheels_are_those_that_the_project_needs(repository: Path) -> None:
    import tomllib

    ended = subprocess.run(
        [sys.executable, "bench/gpu.py", "--wheels"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = set(ended.stdout.split())
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    needed = {word.split(">")[0].split("<")[0].split("[")[0] for word in project["dependencies"]}
    assert needed <= listed
