"""Runs that are validated: stopped, damaged and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faults.base import case
from faults.commands import refused, works
from faults.runs import NUM_STEPS, adapter, train, write_recipe
from support.launching import succeed

from lope_dist.core.runlog import read_lines

GROUP = "Validation"
SETTINGS: dict[str, Any] = {
    "engine__kind": "local",
    "data__validation": {"share": 0.1},
    "train__evaluate": {"every_steps": 2, "experts": ["masked", "all"]},
    "train__keep_best": "masked",
}


def _validated(folder: Path) -> list[dict[str, Any]]:
    lines = read_lines(folder / "run" / "metrics.jsonl")
    kept = ("stage", "step", "validation", "examples", "target_tokens")
    return [{key: line[key] for key in kept} for line in lines if "validation" in line]


@case(
    "a validated run is stopped",
    group=GROUP,
    states="SIGTERM in the middle of the second stage of a run with validation and `keep_best`: "
    "the resume validates at the same steps with the same losses, keeps the same best checkpoint "
    "and ends with the same adapter, to the bit.",
)
def _stopped(folder: Path) -> dict[str, Any]:
    other = folder / "undisturbed"
    other.mkdir()
    succeed(train(write_recipe(other, folder.parent, **SETTINGS), 1))
    recipe = write_recipe(folder, **SETTINGS)
    (ended,) = train(recipe, 1, moment="between", nth=6, harm="TERM")
    assert ended.status == 75, ended.output[-3000:]
    (ended,) = train(recipe, 1, attempt=1)
    succeed([ended])

    assert _validated(folder) == _validated(other)
    best = [json.loads((f / "run" / "state.json").read_text())["best"] for f in (folder, other)]
    assert best[0] == best[1], best
    own, expected = adapter(folder), adapter(other)
    assert all(bool((own[name] == expected[name]).all()) for name in own)
    return {"evaluations": len(_validated(folder))}


@case(
    "the best checkpoint is damaged",
    group=GROUP,
    states="One bit of the best checkpoint: `--checkpoint best` names it in one sentence and "
    "exports no other.",
)
def _best(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder, **SETTINGS)
    works("train", recipe)
    run = folder / "run"
    state = json.loads((run / "state.json").read_text())
    command = ("export", run, "--format", "purified", "--checkpoint", "best")
    works(*command, "--out", folder / "whole")
    best = state["best"]
    middle = "" if best["steps"] == NUM_STEPS else f"-step-{best['steps']:06d}"
    (weights,) = run.glob(f"checkpoints/*-{best['stage']}{middle}/adapter.safetensors")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    refused(*command, "--out", folder / "harmed", told=(weights.parent.name,))
    return {}
