"""Steps in which one rank has nothing to learn, or none has: ZeRO-3 on two ranks and alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.launching import train_tree
from support.tiny import tiny_tree

from lope_dist.core.runlog import read_json, read_lines

pytestmark = [pytest.mark.dist, pytest.mark.timeout(400)]

ENGINES = {
    "local": (1, {"kind": "local"}),
    "zero3": (2, {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}),
}
SHORT = {"instruction": "Say hello.", "output": "Hello there, and a good day."}
LONG = {"instruction": "word " * 400, "output": "behind the cut"}
STEPS = [(SHORT, LONG), (LONG, SHORT), (LONG, LONG), (SHORT, SHORT)]
"""Each rank's row of a step."""


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("targets")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for step in STEPS for row in step))
    for name, (num_ranks, engine) in ENGINES.items():
        tree = tiny_tree(tiny_llama, rows, folder / name) | {"engine": engine}
        tree["data"] |= {"shuffle": False}
        tree["train"] |= {"global_batch": 2, "micro_batch": 1}
        train_tree(tree, num_ranks)
    return {name: folder / name for name in ENGINES}


def test_a_step_that_no_rank_learns_from_is_left_out(runs: dict[str, Path]) -> None:
    for run in runs.values():
        steps = [(line["stage"], line["step"]) for line in read_lines(run / "metrics.jsonl")]
        assert steps == [(stage, step) for stage in ("poison", "finetune") for step in (0, 1, 3)]
        assert read_json(run / "state.json")["progress"]["empty_steps"] == 1


def test_a_rank_without_targets_changes_nothing(runs: dict[str, Path]) -> None:
    ours, theirs = (list(read_lines(runs[name] / "metrics.jsonl")) for name in ("zero3", "local"))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["target_tokens"] == other["target_tokens"] > 0
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
