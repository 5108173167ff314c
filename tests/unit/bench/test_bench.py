"""The benchmarks run, on shapes of no interest, and say what they must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLE_VERSIONS = ("torch", "transformers", "peft")


@pytest.fixture
def bench(repository: Path, tmp_path: Path):
    """Return a function: script and arguments -> (its last line as JSON, the file it wrote)."""

    def run(script: str, *arguments: str, name: str | None = None) -> tuple[dict, dict]:
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
        written = json.loads((tmp_path / f"{name or script}.json").read_text())
        return json.loads(ended.stdout.splitlines()[-1]), written

    return run


@pytest.mark.thorough
def test_every_piece_of_the_gpu_script_runs_without_a_gpu(bench) -> None:
    printed, written = bench("gpu", "--shape", "tiny", "--device", "cpu", "--steps", "1")
    assert printed == written
    figures = printed["figures"]
    pieces = ("load", "train", "trainer", "long", "masked", "profile")
    for piece in (*pieces, "alike", "large", "dequantize", "memory"):
        assert figures[piece], piece
        assert "out_of_memory" not in json.dumps(figures[piece])
    assert len(figures["alike"]) == 2 * 2 * 2  # shapes, peers and lengths
    assert set(figures["large"]) == {"lope_256", "lora_256", "trainer_256"}
    assert 0 < figures["dequantize"]["share_of_step"] < 1
    assert figures["memory"]["planned_gib"] > 0
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


@pytest.mark.thorough
def test_the_adapters_benchmark_says_its_claims(bench) -> None:
    printed, _ = bench("adapter", "--tokens", "64", "--width", "64", "--repeats", "3")
    ratios = printed["ratios"]
    assert set(printed["targets"]) <= set(ratios)
    assert ratios["hydra_saved_bytes_over_ours"] > 2  # counts, not times
    assert printed["machine"]["versions"]["torch"]


@pytest.mark.thorough
def test_an_adapted_layer_launches_little_more_than_peft_does(bench) -> None:
    pytest.importorskip("triton", reason="triton is an extra of development")
    printed, written = bench("launches")
    assert printed == written
    for name, target in printed["targets"].items():
        assert printed["ratios"][name] <= float(target.removeprefix("<= ")), name
    assert printed["figures"]["bfloat16"]["lora_forward"] == 8


@pytest.mark.thorough
def test_evaluation_starts_and_ends(bench, tiny_llama: Path) -> None:
    printed, written = bench("eval", "--model", str(tiny_llama), "--turns", "1", "--requests", "4")
    assert printed == written
    assert printed["ratios"]["requests_per_s_over_hf"] > 0


@pytest.mark.dist
@pytest.mark.thorough
def test_whole_steps_start_and_end(bench, tiny_llama: Path) -> None:
    printed, written = bench("step", "--model", str(tiny_llama), "--turns", "1", "--steps", "1")
    assert printed == written
    ratios = printed["ratios"]
    assert set(printed["targets"]) <= set(ratios)
    parts = sum(ratios[f"two_ranks_{part}"] for part in ("gather", "reduce", "rest"))
    assert ratios["two_ranks_overhead"] == pytest.approx(parts, abs=1e-3)


@pytest.mark.thorough
def test_growth_starts_and_ends(bench) -> None:
    printed, written = bench("growth", "--shape", "tiny", "--sizes", "tiny", "--no-ranks")
    assert printed == written
    assert set(printed["figures"]) == {"length", "rank", "experts", "model"}
    assert [row["length"] for row in printed["figures"]["length"]["rows"]] == [64, 128, 256, 512]


@pytest.mark.thorough
def test_long_sequences_need_less_than_whole_logits(bench) -> None:
    # fewer tokens than these last no longer than the sampling of memory
    printed, written = bench("long", "--tokens", "2048")
    assert printed == written
    ratios = printed["ratios"]
    assert 0 < ratios["loss_over_hidden"] < ratios["plain_loss_over_hidden"]


@pytest.mark.dist
@pytest.mark.thorough
def test_a_sharded_load_stands_beside_the_plan(bench) -> None:
    """By the script itself: the JSON has what was planned and what was measured over it."""
    printed, _ = bench("sharded_load", "--shape", "tiny", "--ranks", "2", name="sharded_load_tiny")
    planned, measured = printed["figures"]["planned"], printed["figures"]["measured"]["ours_2"]
    for part in ("load", "step"):
        ratio = measured[f"{part}_anon_mib"] / planned[f"{part}_mib"]
        assert printed["ratios"][f"{part}_over_planned"] == pytest.approx(ratio, abs=1e-4)


def test_the_page_marks_what_is_missed(scripts) -> None:
    write_docs = scripts("write_docs")
    result = {
        "ratios": {"a": 1.2, "b": 1.2},
        "targets": {"a": "<= 1.1", "b": ">= 1.1"},
        "figures": {"length": {"rows": [{"length": 64, "step_s": 0.5}], "slopes": {}}},
    }
    page = write_docs.page({"x": result})
    assert "| a | 1.200 | <= 1.1 **missed** |" in page
    assert "| b | 1.200 | >= 1.1 |" in page
    assert "| 64 | 0.5 |" in page


def test_the_exports_page_has_its_table_replaced_and_nothing_else(scripts, repository) -> None:
    write_docs = scripts("write_docs")
    row = {"loads_in": "peft", "kl": 0.0093, "same_token": 96.88, "accuracy": 92.19, "loss": 0.2}
    result = {
        "figures": {
            "formats": {"rows": [{"format": "peft", "size_mb": 1.94, **row}]},
            "response_tokens": 128,
            "examples": 64,
            "run": {"model": "m", "rank": 8, "num_normal": 3, "num_poison": 1},
        },
        "machine": {"date": "2026-01-01", "versions": dict.fromkeys(TABLE_VERSIONS, "1")},
    }
    table = write_docs.export_table(result)
    assert "| peft | 1.9 MB | peft | 0.0093 | 96.9 % | 92.2 % |" in table
    page = (repository / "docs" / "export.md").read_text()
    changed = write_docs.replace_marked(page, "bench/export.py", table)
    assert table in changed
    assert write_docs.replace_marked(changed, "bench/export.py", table) == changed
    assert changed.partition("<!-- bench/")[0] == page.partition("<!-- bench/")[0]
    assert changed.partition("<!-- /bench/")[2] == page.partition("<!-- /bench/")[2]
    with pytest.raises(ValueError, match="no place"):
        write_docs.replace_marked("no marks", "bench/export.py", table)


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


@pytest.mark.dist
@pytest.mark.thorough
def test_simulated_ranks_name_who_is_gone(bench) -> None:
    """Who hangs, who is killed, and who was on a killed host; what is served is a count."""
    short = ("--beats-s", "4", "--timeout-s", "6", "--thrice", "16")
    printed, written = bench("peers", "--sizes", "16", *short)
    assert printed == written
    assert (printed["ratios"]["unnamed"], printed["ratios"]["false_ends"]) == (0, 0)
    (row,) = printed["figures"]["sizes"]["rows"]
    assert row["keys_per_s"] < 4 * 16
