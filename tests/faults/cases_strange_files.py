"""Other people's files in the place of ours, and links that lead to them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from faults.base import case
from faults.commands import finished_run, lope, refused, works
from faults.runs import write_recipe

GROUP = "Other people's files"
NAMES = ("metrics.jsonl", "manifest.json", "results.json", "state.json", "checkpoints", "losses")


@case(
    "a new run into a folder of another's files",
    group=GROUP,
    states="A folder that holds a file of any name of ours and no run is refused and left alone.",
)
def _taken(folder: Path) -> dict[str, Any]:
    recipe, run = write_recipe(folder, engine__kind="local"), folder / "run"
    run.mkdir()
    for name in NAMES:
        (run / name).write_text("mine")
        for flags in ((), ("--resume",), ("--resume", "auto")):
            refused("train", recipe, *flags, told=(f"holds {name}", "Nothing was touched"))
        assert [path.read_text() for path in run.iterdir()] == ["mine"]
        (run / name).unlink()
    return {"names": len(NAMES)}


@case(
    "links under our names",
    group=GROUP,
    states="A new run refuses a folder with links under its names; where they lead is untouched.",
)
def _links(folder: Path) -> dict[str, Any]:
    recipe, run = write_recipe(folder, engine__kind="local"), folder / "run"
    precious = folder / "precious"
    precious.write_text("mine")
    run.mkdir()
    for name in (*NAMES, ".lock", "run.yaml"):
        for target in (precious, folder / "absent"):
            (run / name).symlink_to(target)
            ended = lope("train", recipe)
            assert ended.status == 2, ended.said
            assert "Traceback" not in ended.said
            assert precious.read_text() == "mine"
            assert not (folder / "absent").exists()
            for path in run.iterdir():
                path.unlink()
    return {"names": len(NAMES) + 2}


@case(
    "links in a run that goes on",
    group=GROUP,
    states="A link that took the place of a run's log, lock or checkpoint file is not followed.",
)
def _links_in_run(folder: Path) -> dict[str, Any]:
    recipe, precious = finished_run(folder), folder / "precious"
    run = folder / "run"
    precious.write_text("mine")
    newest = run / "checkpoints" / "2-finetune"
    for path in (run / ".lock", run / "metrics.jsonl", newest / "adapter.safetensors"):
        kept = folder / "kept"
        shutil.copyfile(path, kept) if path.exists() else kept.write_text("")
        path.unlink(missing_ok=True)
        path.symlink_to(precious)
        ended = lope("train", recipe, "--resume", "train.stages.finetune.max_steps=4")
        assert "Traceback" not in ended.said, ended.said[-2000:]
        assert precious.read_text() == "mine", path
        path.unlink(missing_ok=True)
        kept.rename(path)
        for beside in run.glob("*.damaged-*"):
            beside.unlink()
    return {}


@case(
    "an export into a folder of another's files",
    group=GROUP,
    states="An export refuses a folder that is there and leaves it as it is.",
)
def _export(folder: Path) -> dict[str, Any]:
    finished_run(folder)
    out = folder / "out"
    out.mkdir()
    (out / "adapter_model.safetensors").write_text("mine")
    refused("export", folder / "run", "--format", "purified", "--out", out, told=(str(out),))
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
    return {}


@case(
    "a corpus into a folder of another's files",
    group=GROUP,
    states="`lope corpus build` leaves what it did not write as it is and its corpus is whole.",
)
def _corpus(folder: Path) -> dict[str, Any]:
    recipe, out = write_recipe(folder), folder / "corpus"
    (out / "shards").mkdir(parents=True)
    strange = [out / "notes.txt", out / "shards" / "notes.txt", out / "shards" / "clean.txt"]
    for path in strange:
        path.write_text("mine")
    works("corpus", "build", recipe, "--out", out)
    works("corpus", "verify", out)
    assert all(path.read_text() == "mine" for path in strange)
    (out / "plan.json").write_text('{"mine": 1}')
    refused("corpus", "build", recipe, "--out", out, told=("plan.json",))
    assert (out / "plan.json").read_text() == '{"mine": 1}'
    return {}
