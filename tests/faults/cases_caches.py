"""Caches, corpora and formats: what is read is what was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.base import case
from faults.commands import finished_run, lope, refused, stopped_run, works
from faults.runs import adapter, write_recipe

from lope_dist.core.blocks import BLOCK
from lope_dist.core.sealed_cache import cache_damage, seal_cache
from lope_dist.train.checkpoint.integrity import MANIFEST, seal

GROUP = "Caches and corpora"
FORMATS = "Formats of other versions"


def _flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "NULs": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": Path.unlink,
}


@case(
    "a damaged cache of rows",
    group=GROUP,
    states="Each file of the rows' cache, harmed in five ways: told, made anew, and the same rows.",
)
def _store(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder)
    os.environ["LOPE_DATA_CACHE"] = str(folder / "cache")
    works("check", recipe)
    (store,) = (path for path in (folder / "cache").iterdir() if path.is_dir())
    whole = {path.name: path.read_bytes() for path in store.iterdir()}
    for name in whole:
        for harm in HARMS.values():
            harm(store / name)
            works("check", recipe, told=("are damaged (", "read anew"))
            assert {path.name: path.read_bytes() for path in store.iterdir()} == whole
    return {"files": len(whole), "harms": len(HARMS)}


@case(
    "changed letters in a cache, on a resume",
    group=GROUP,
    states="21 letters of a cached row are changed while a run is stopped: the resume reads the "
    "rows anew and ends in the undisturbed run's adapter, to the bit.",
)
def _letters(folder: Path) -> dict[str, Any]:
    os.environ["LOPE_DATA_CACHE"] = str(folder / "cache")
    other = folder / "undisturbed"
    other.mkdir()
    recipe = stopped_run(folder)
    shutil.copytree(folder / "run", other / "run")
    works("train", recipe, "--resume", f"output_dir={other / 'run'}")
    (store,) = (path for path in (folder / "cache").iterdir() if path.is_dir())
    text = (store / "examples.jsonl").read_bytes()
    (store / "examples.jsonl").write_bytes(text.replace(b"Really", b"REALLY", 21))
    works("train", recipe, "--resume", told=("are damaged (", "examples.jsonl"))
    own, expected = adapter(folder), adapter(other)
    assert own.keys() == expected.keys()
    assert all(bool((own[name] == expected[name]).all()) for name in own)
    return {}


def _built(folder: Path) -> tuple[Path, Path]:
    recipe, out = write_recipe(folder, engine__kind="local"), folder / "corpus"
    works("corpus", "build", recipe, "--out", out, "--shard-examples", 32)
    return recipe, out


@case(
    "a damaged shard",
    group=GROUP,
    states="One bit of a built corpus: `lope corpus verify` and a run name file and block, and the "
    "same build makes that shard anew.",
)
def _shard(folder: Path) -> dict[str, Any]:
    recipe, out = _built(folder)
    shards = sorted((out / "shards").glob("*.arrow"))
    for shard in (shards[0], shards[-1]):
        whole = shard.read_bytes()
        for at in range(100, len(whole), len(whole) // 4):
            _flip(shard, at)
            block = f"block {at // BLOCK + 1} of {-(-len(whole) // BLOCK)}"
            refused("corpus", "verify", out, told=(shard.name, block))
            shard.write_bytes(whole)
    _flip(shards[0])
    refused("train", recipe, f"data.corpus={out}", told=(str(shards[0]), "block 1 of 1"))
    works("corpus", "build", recipe, "--out", out, "--shard-examples", 32, told=("Made anew",))
    works("corpus", "verify", out)
    return {"shards": len(shards)}


@case(
    "a corpus with parts missing",
    group=GROUP,
    states="Shards, their records, the plan or the manifest cut, emptied or removed: one sentence, "
    "and the same build mends what can be made anew.",
)
def _parts(folder: Path) -> dict[str, Any]:
    recipe, out = _built(folder)
    shards = sorted((out / "shards").iterdir())
    tried = 0
    for path in (shards[0], shards[1], out / "manifest.json", out / "plan.json"):
        whole = path.read_bytes()
        for name in ("cut", "empty", "gone"):
            HARMS[name](path)
            for command in (("corpus", "verify", out), ("train", recipe, f"data.corpus={out}")):
                ended = lope(*command)
                assert "Traceback" not in ended.said, ended.said[-3000:]
                is_read = path.suffix == ".arrow" or path.name == "manifest.json"
                assert ended.status == 2 or not is_read, ended.said[-2000:]
                shutil.rmtree(folder / "run", ignore_errors=True)
            path.write_bytes(whole)
            tried += 1
    works("corpus", "verify", out)
    return {"harms": tried}


@case(
    "a converted model that went bad",
    group=GROUP,
    states="A cache of a converted model, harmed in five ways in each file, its hashes too, is "
    "seen.",
)
def _converted(folder: Path) -> dict[str, Any]:
    write_recipe(folder)
    model = folder / "model"
    shutil.copytree(folder.parent / "inputs" / "model", model)
    seal_cache(model)
    assert cache_damage(model) is None
    files = sorted(model.iterdir())
    for path in files:
        whole = path.read_bytes()
        for harm in HARMS.values():
            harm(path)
            assert cache_damage(model), (path, harm)
            path.write_bytes(whole)
    return {"files": len(files), "harms": len(HARMS)}


def _change_text(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _change(path: Path, **changes: Any) -> None:
    """Change a file of a checkpoint and seal the folder again."""
    _change_text(path, **changes)
    if path.name != MANIFEST:
        (path.parent / MANIFEST).unlink()
        seal(path.parent)


def _newer(folder: Path, name: str) -> dict[str, Any]:
    recipe, run = stopped_run(folder), folder / "run"
    newest = max((run / "checkpoints").iterdir(), key=lambda p: p.stat().st_mtime)
    _change(newest / name, format=99)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    told = ("format 99", "written by a newer version of lope_dist")
    refused("train", recipe, "--resume", told=told)
    refused("train", recipe, "--resume", "auto", told=told)
    refused("export", run, "--format", "purified", "--out", folder / "out", told=told)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == {
        p: content for p, content in before.items() if p.name != ".lock"
    }
    return {}


@case(
    "a checkpoint of a newer version",
    group=FORMATS,
    states="A newer `format` in `state.json`: `train --resume`, `--resume auto` and `export` "
    "refuse it, and change nothing.",
)
def _newer_state(folder: Path) -> dict[str, Any]:
    return _newer(folder, "state.json")


@case("an adapter of a newer version", group=FORMATS, states="The same in `adapter.json`.")
def _newer_adapter(folder: Path) -> dict[str, Any]:
    return _newer(folder, "adapter.json")


@case("a seal of a newer version", group=FORMATS, states="The same in `MANIFEST.json`.")
def _newer_seal(folder: Path) -> dict[str, Any]:
    return _newer(folder, MANIFEST)


@case(
    "a run and a corpus of a newer version",
    group=FORMATS,
    states="A newer `format` in a run's `manifest.json`, or in a corpus' `plan.json` or "
    "`manifest.json`: refused by whoever would read or write it, and left.",
)
def _newer_manifests(folder: Path) -> dict[str, Any]:
    recipe, out = _built(folder)
    stopped_run(folder)
    told = ("format 99", "written by a newer version of lope_dist")
    resume, build = ("train", recipe, "--resume"), ("corpus", "build", recipe, "--out", out)
    for path, commands in {
        folder / "run" / "manifest.json": (resume, ("report", folder / "run")),
        out / "plan.json": ((*build, "--shard-examples", 32), ("corpus", "merge", out)),
        out / "manifest.json": (("corpus", "verify", out), ("train", recipe, f"data.corpus={out}")),
    }.items():
        whole = path.read_text()
        _change_text(path, format=99)
        newer = path.read_text()
        for command in commands:
            refused(*command, told=told)
        assert path.read_text() == newer
        path.write_text(whole)
        shutil.rmtree(folder / "run", ignore_errors=True)
    return {"files": 3}


@case(
    "a format that is none",
    group=FORMATS,
    states="`format` absent, text, negative or nested: the checkpoint is named and passed over.",
)
def _no_format(folder: Path) -> dict[str, Any]:
    finished_run(folder)
    newest = folder / "run" / "checkpoints" / "2-finetune"
    kept = folder / "kept"
    shutil.copytree(newest, kept)
    for value in (None, "2", -1, [2], 1.5, True):
        for name in ("state.json", "adapter.json", MANIFEST):
            _change(newest / name, format=value)
            ended = lope("export", folder / "run", "--format", "purified", "--out", folder / "out")
            assert "Traceback" not in ended.said, ended.said[-2000:]
            assert "2-finetune" in ended.said
            assert "no known format" in ended.said or "is not" in ended.said, ended.said[-2000:]
            shutil.rmtree(folder / "out", ignore_errors=True)
            shutil.rmtree(newest)
            shutil.copytree(kept, newest)
    return {}
