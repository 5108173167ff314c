"""Harm to a run's files, and what a resume makes of it."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import (
    BEFORE,
    NEWEST,
    ZERO_TO_LOCAL,
    adapter,
    assert_equals_undisturbed,
    assert_tells,
    distance,
    last_told,
    reference,
    stopped,
    train,
    write_recipe,
)
from safetensors.torch import load_file, save_file
from support.launching import succeed

from lope_dist.train.checkpoint.descriptions import DESCRIPTION, STATE
from lope_dist.train.checkpoint.folder import CONFIG, OPTIMIZER, WEIGHTS
from lope_dist.train.checkpoint.history import checkpoints
from lope_dist.train.checkpoint.integrity import MANIFEST, defect

GROUP = "Checkpoints"
FILES = (WEIGHTS, DESCRIPTION, OPTIMIZER, STATE, CONFIG, MANIFEST)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _harm_each_file(folder: Path, harm: Callable[[Path], None]) -> dict[str, Any]:
    recipe = stopped(folder)
    run = folder / "run"
    assert last_told(run) == (NEWEST, "")
    kept = folder / "kept"
    shutil.copytree(run / "checkpoints" / NEWEST, kept)
    for name in FILES:
        shutil.rmtree(run / "checkpoints" / NEWEST)
        shutil.copytree(kept, run / "checkpoints" / NEWEST)
        harm(run / "checkpoints" / NEWEST / name)
        last, told = last_told(run)
        assert last == BEFORE, (name, last)
        assert f"{NEWEST} is passed over: " in told, told
        assert name in told, told
    ended = train(recipe, 2, attempt=1)
    succeed(ended)
    assert f"{NEWEST} is passed over" in ended[0].output
    assert_equals_undisturbed(folder, 2, reference(folder, 2))
    return {"file_kinds": len(FILES), "largest_difference": distance(folder, reference(folder, 2))}


@case(
    "flipped-byte",
    group=GROUP,
    states="One flipped bit in any file of the newest checkpoint: it is named and passed over.",
    in_ci=True,
)
def _flipped_byte(folder: Path) -> dict[str, Any]:
    return _harm_each_file(folder, _flip)


@case("cut-file", group=GROUP, states="The same with any file cut to half its length.")
def _cut_file(folder: Path) -> dict[str, Any]:
    return _harm_each_file(folder, _cut)


@case("missing-file", group=GROUP, states="The same with any file missing.")
def _missing_file(folder: Path) -> dict[str, Any]:
    return _harm_each_file(folder, Path.unlink)


@case(
    "torn-folder",
    group=GROUP,
    states="What a killed writer left half-written, and a `latest` file that points at it, are "
    "not looked at; a resume clears it away.",
)
def _torn_folder(folder: Path) -> dict[str, Any]:
    recipe = stopped(folder)
    places = folder / "run" / "checkpoints"
    for name in (".2-finetune-step-000004.partial", ".2-finetune-step-000001.old"):
        shutil.copytree(places / NEWEST, places / name)
        (places / name / STATE).unlink()
    (places / "latest").write_text(".2-finetune-step-000004.partial")
    (places / "2-finetune").mkdir()  # under its final name, and empty
    last, told = last_told(folder / "run")
    assert last == NEWEST
    assert "2-finetune is passed over: adapter.safetensors is missing" in told
    succeed(train(recipe, 1, *ZERO_TO_LOCAL, attempt=1))
    assert_equals_undisturbed(folder, 2, reference(folder, 2))
    return {}


@case(
    "foreign-checkpoint",
    group=GROUP,
    states="A whole checkpoint of a run with another seed, copied in under a later name, is named, "
    "passed over, and replaced when the run comes there.",
)
def _foreign(folder: Path) -> dict[str, Any]:
    other = folder / "other"
    other.mkdir()
    succeed(train(write_recipe(other, folder.parent, engine__kind="local", seed=7), 1))
    recipe = stopped(folder)
    places = folder / "run" / "checkpoints"
    shutil.copytree(other / "run" / "checkpoints" / "2-finetune", places / "2-finetune")
    assert defect(places / "2-finetune") is None
    last, told = last_told(folder / "run")
    assert last == NEWEST
    assert "2-finetune is passed over: it is of another run (seed: 614 -> 7)" in told, told
    succeed(train(recipe, 1, *ZERO_TO_LOCAL, attempt=1))
    assert_equals_undisturbed(folder, 2, reference(folder, 2))
    return {"difference": distance(folder, reference(folder, 2))}


@case(
    "planted-pickle",
    group=GROUP,
    states="Pickles that run code when read, beside and in place of a checkpoint's files, are "
    "never executed.",
)
def _planted_pickle(folder: Path) -> dict[str, Any]:
    recipe, mark = stopped(folder), folder / "executed"

    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(mark),)

    newest, before = (folder / "run" / "checkpoints" / name for name in (NEWEST, BEFORE))
    trap = pickle.dumps(Trap())
    for place in (newest, before, folder / "run"):
        for name in ("adapter.pt", "optimizer.bin", "pytorch_model.bin", "state.pkl"):
            (place / name).write_bytes(trap)
    for name in (WEIGHTS, OPTIMIZER):
        (newest / name).write_bytes(trap)
    succeed(train(recipe, 2, attempt=1))
    assert not mark.exists()
    assert_equals_undisturbed(folder, 2, reference(folder, 2))
    pickle.loads(trap)
    assert mark.exists(), "the trap works"
    return {}


@case(
    "keep-last",
    group=GROUP,
    states="With a checkpoint after each step and keep_last = 3, the newest three in the middle of "
    "stages are there at the end, and both stages' ends.",
)
def _keeplast_told(folder: Path) -> dict[str, Any]:
    every = {"train__checkpoint__every_steps": 1, "train__checkpoint__keep_last": 3}
    succeed(train(write_recipe(folder, engine__kind="local", **every), 1))
    names = sorted(c.folder.name for c in checkpoints(folder / "run"))
    middle = [f"2-finetune-step-{step:06d}" for step in (1, 2, 3)]
    assert names == ["1-poison", "2-finetune", *middle], names
    return {}


@case(
    "changed-inputs",
    group=GROUP,
    states="A resume with other base weights, tokenizer, corpus or method is refused, each "
    "difference spelled out, and changes no file.",
)
def _changed_inputs(folder: Path) -> dict[str, Any]:
    inputs, own = folder.parent / "inputs", folder / "inputs"
    reference(folder, 2)  # which makes the inputs
    shutil.copytree(inputs, own)
    paths = {"model__name_or_path": str(own / "model"), "data__path": str(own / "rows.jsonl")}
    recipe = stopped(folder, engine__kind="local", **paths)
    run = folder / "run"

    def refused(*said: str, overrides: tuple[str, ...] = ()) -> None:
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        ended = train(recipe, 1, *overrides, attempt=1)
        assert ended[0].status == 2, ended[0].output[-2000:]
        assert_tells(ended[0], *said)
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before

    refused("adapter.rank: 4 -> 8", "seed: 614 -> 3", overrides=("adapter.rank=8", "seed=3"))

    weights = own / "model" / "model.safetensors"
    tensors = load_file(weights)
    name = next(n for n in tensors if n.endswith("1.mlp.up_proj.weight"))
    save_file({**tensors, name: tensors[name] * 1.01}, weights, metadata={"format": "pt"})
    refused("other base weights than", str(own / "model"))
    save_file(tensors, weights, metadata={"format": "pt"})

    tokenizer = own / "model" / "tokenizer.json"
    text = tokenizer.read_text()
    tokenizer.write_text(text.replace('"add_prefix_space":false', '"add_prefix_space":true'))
    if tokenizer.read_text() == text:
        tokenizer.write_text(
            text.replace('"add_prefix_space": false', '"add_prefix_space": true', 1)
        )
    assert tokenizer.read_text() != text
    refused("other tokenizer than")
    tokenizer.write_text(text)

    rows = own / "rows.jsonl"
    lines = rows.read_text()
    rows.write_text(lines.replace("sum", "total", 1))
    refused("other data than", "rows.jsonl")
    rows.write_text(lines)

    succeed(train(recipe, 1, attempt=1))
    assert_equals_undisturbed(folder, 2, reference(folder, 2))
    return {}


@case(
    "elastic",
    group=GROUP,
    states="4 ranks under ZeRO-3, then 2 under ZeRO-2, 3 under ZeRO-3 with offload and 1 without "
    "DeepSpeed, each stopped in the middle of an epoch: one run, the undisturbed one.",
)
def _elastic(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder)
    kinds = (
        (4, (), "between", 2),  # in the first stage
        (2, ("engine.zero_stage=2",), "forward", 1),  # in its last step: between the stages
        (3, ("engine.offload=both",), "between", 1),  # in the second stage
    )
    for attempt, (ranks, overrides, moment, nth) in enumerate(kinds):
        stop = {"attempt": attempt, "moment": moment, "nth": nth, "harm": "TERM"}
        ended = train(recipe, ranks, *overrides, **stop)
        assert [rank.status for rank in ended] == [75] * ranks, ended[0].output[-2000:]
    succeed(train(recipe, 1, *ZERO_TO_LOCAL, attempt=3))
    expected = reference(folder, 4)
    assert_equals_undisturbed(folder, 4, expected)
    gap = distance(folder, expected)
    assert gap <= 1e-3, gap
    return {"largest_difference": gap, "weights": len(adapter(folder))}
