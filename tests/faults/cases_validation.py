"""Runs that are validated, extended or begun with another's adapter: stopped and damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from faults.base import case
from faults.commands import refused, works
from faults.runs import NUM_STEPS, assert_tells, distance, train, write_recipe
from support.launching import succeed

from lope_dist.core.locks import file_lock
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


def _undisturbed(folder: Path, num_ranks: int, settings: dict[str, Any]) -> Path:
    """Return a validated run that nothing has disturbed, made once for all cases."""
    cache = folder.parent / f"validated-{num_ranks}"
    with file_lock(Path(f"{cache}.lock")):
        if not (cache / "done").exists():
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir()
            succeed(train(write_recipe(cache, **settings), num_ranks))
            (cache / "done").touch()
    return cache


def _assert_the_same(folder: Path, other: Path) -> dict[str, Any]:
    """Assert the same evaluations, best checkpoint and final adapter, to the bit."""
    assert _validated(folder) == _validated(other)
    best = [json.loads((f / "run" / "state.json").read_text())["best"] for f in (folder, other)]
    assert best[0] == best[1], best
    assert distance(folder, other) == 0.0
    return {"evaluations": len(_validated(folder))}


def _stop(folder: Path, moment: str, nth: int, name: str = "TERM") -> dict[str, Any]:
    recipe = write_recipe(folder, **SETTINGS)
    (ended,) = train(recipe, 1, moment=moment, nth=nth, harm=name)
    assert "struck at" in ended.output, "the harm was not done"
    assert ended.status in (75, -9), ended.output[-3000:]
    succeed(train(recipe, 1, attempt=1))
    return _assert_the_same(folder, _undisturbed(folder, 1, SETTINGS))


@case(
    "a validated run is stopped",
    group=GROUP,
    states="SIGTERM in the middle of the second stage of a run with validation and `keep_best`: "
    "the resume validates at the same steps with the same losses, keeps the same best checkpoint "
    "and ends with the same adapter, to the bit.",
)
def _stopped(folder: Path) -> dict[str, Any]:
    return _stop(folder, "between", 6)


@case(
    "a validation is stopped",
    group=GROUP,
    states="The same with SIGTERM in the middle of a validation, which is taken anew.",
)
def _stopped_within(folder: Path) -> dict[str, Any]:
    return _stop(folder, "validation", 14)


@case(
    "a rank is killed in a validation",
    group=GROUP,
    states="SIGKILL to one of two ZeRO-3 ranks in the middle of a validation: the other names it "
    "and ends, and the resume ends in the undisturbed run, with its evaluations and its best "
    "checkpoint.",
)
def _killed_within(folder: Path) -> dict[str, Any]:
    changes: dict[str, Any] = SETTINGS | {"engine__kind": "deepspeed"}
    recipe = write_recipe(folder, **changes)
    ended = train(recipe, 2, victim=1, moment="validation", nth=14, harm="KILL")
    assert [rank.status for rank in ended] == [69, -9], ended[0].output[-3000:]
    assert_tells(ended[0], "Rank 1")
    succeed(train(recipe, 2, attempt=1))
    return _assert_the_same(folder, _undisturbed(folder, 2, changes))


LONGER = "--extend=finetune=8"


@case(
    "an extended stage is killed",
    group=GROUP,
    states="SIGKILL in a run that `--extend` makes longer, before and after its end became a "
    "checkpoint in its middle, and three steps later: the same command goes on each time and "
    "ends where it would have ended.",
)
def _extended(folder: Path) -> dict[str, Any]:
    other = folder / "undisturbed"
    other.mkdir()
    recipes = [write_recipe(each, folder.parent, **SETTINGS) for each in (folder, other)]
    succeed(train(recipes[0], 1))
    shutil.copytree(folder / "run", other / "run")
    succeed(train(recipes[1], 1, LONGER))
    moments = [("start", 1), ("load", 1), ("between", 3)]
    for attempt, (moment, nth) in enumerate(moments, 1):
        (ended,) = train(
            recipes[0], 1, LONGER, attempt=attempt, moment=moment, nth=nth, harm="KILL"
        )
        assert ended.status == -9, ended.output[-3000:]
    succeed(train(recipes[0], 1, LONGER, attempt=9))
    assert json.loads((folder / "run" / "state.json").read_text())["status"] == "finished"
    return _assert_the_same(folder, other)


def _begun(folder: Path) -> dict[str, Any]:
    """Return the settings of a run that begins with the adapter of ``folder``/first's."""
    first = folder / "first"
    first.mkdir()
    works("train", write_recipe(first, folder.parent, **SETTINGS))
    return SETTINGS | {"adapter__init_from": str(first / "run"), "seed": 7}


@case(
    "a run that began with another's adapter is killed, and the other is gone",
    group=GROUP,
    states="SIGKILL in the first stage of a run with `adapter.init_from`; then the other run's "
    "folder is removed: the resume says that drift is not logged any more and ends in the "
    "undisturbed run.",
)
def _source_gone(folder: Path) -> dict[str, Any]:
    changes, other = _begun(folder), folder / "undisturbed"
    other.mkdir()
    succeed(train(write_recipe(other, folder.parent, **changes), 1))
    recipe = write_recipe(folder, **changes)
    (ended,) = train(recipe, 1, moment="between", nth=3, harm="KILL")
    assert ended.status == -9, ended.output[-3000:]
    shutil.rmtree(folder / "first")
    (ended,) = train(recipe, 1, attempt=1)
    succeed([ended])
    assert_tells(ended, "The drift of stage 'poison' is not logged any more")
    return _assert_the_same(folder, other)


@case(
    "the run to begin with is damaged",
    group=GROUP,
    states="One bit of the adapter that `adapter.init_from` names: one sentence with the key, "
    "before the folder is taken. No older checkpoint is trained from in its place.",
)
def _source_damaged(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder, **_begun(folder))
    _flip(folder / "first" / "run" / "checkpoints" / "2-finetune" / "adapter.safetensors")
    refused("train", recipe, told=("adapter.init_from: ", "2-finetune is damaged"))
    assert not (folder / "run" / "run.yaml").exists()
    return {}


def _flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
    _flip(weights)
    refused(*command, "--out", folder / "harmed", told=(weights.parent.name,))
    return {}
