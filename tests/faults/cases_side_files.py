"""Side files of a run that are torn or something else: they cost no run and end no command."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.base import case
from faults.commands import finished_run, lope, stopped_run, works
from faults.runs import metrics, write_recipe

from lope_dist.train.stage import loop

GROUP = "Side files"
NOISE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2],
    "NUL": lambda text: bytes(4096),
    "a NUL block inside": lambda text: text[:40] + bytes(512) + text[40:],
    "bad bytes": lambda text: b"\xff\xfe" + text,
    "{}": lambda text: b"{}\n",
    "[]": lambda text: b"[]\n",
    "a number": lambda text: b"7\n",
    "nested": lambda text: b"[" * 20_000,
    "NaN": lambda text: b'{"rows": NaN, "loss": Infinity}\n',
}
FEW = ("cut", "a NUL block inside", "{}", "nested")
"""What each command is tried on; `tests/unit/test_fuzz.py` has thousands."""


@case(
    "a damaged log and manifest",
    group=GROUP,
    states="`metrics.jsonl`, `manifest.json`, `state.json`, `router.json` and `cost.json` of a "
    "stopped run, each damaged in another way: it resumes and ends in the undisturbed run; what "
    "was damaged is put aside and told.",
)
def _resumed(folder: Path) -> dict[str, Any]:
    recipe, run = stopped_run(folder), folder / "run"
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(
        b"".join([lines[0], bytes(700), b"\n", *lines[1:], b"{}\n"])
    )
    for name, noise in zip(("manifest", "state", "router", "cost"), NOISE, strict=False):
        path = run / f"{name}.json"
        if path.exists():
            path.write_bytes(NOISE[noise](path.read_bytes()))
    said = works("train", recipe, "--resume", told=("metrics.jsonl",))
    aside = sorted(path.name for path in run.glob("*.damaged-*"))
    assert any(name.startswith("metrics.jsonl") for name in aside), (aside, said)
    assert len(metrics(folder)) == 8
    assert json.loads((run / "state.json").read_text())["status"] == "finished"
    return {"put aside": len(aside)}


@case(
    "a resume without side files",
    group=GROUP,
    states="A run of which nothing is left but its checkpoints resumes, and ends in the "
    "undisturbed run.",
)
def _nothing_left(folder: Path) -> dict[str, Any]:
    recipe, run = stopped_run(folder), folder / "run"
    for path in run.iterdir():
        if path.is_file():
            path.unlink()
    works("train", recipe, "--resume")
    state = json.loads((run / "state.json").read_text())
    assert state["status"] == "finished"
    return {}


def _each_noise(folder: Path, name: str, *commands: tuple[object, ...]) -> dict[str, Any]:
    finished_run(folder)
    path = folder / "run" / name
    path.parent.mkdir(exist_ok=True)
    content = path.read_bytes() if path.exists() else b'{"rows": [{"name": "base", "tasks": {}}]}'
    for noise in map(NOISE.__getitem__, FEW):
        for command in commands:
            path.write_bytes(noise(content))
            ended = lope(*command)
            assert "Traceback" not in ended.said, ended.said[-3000:]
            assert ended.status == 0 or (ended.status == 2 and "error: " in ended.said), ended.said
    path.write_bytes(content)
    works(*commands[0])
    return {"damages": len(FEW), "commands": len(commands)}


@case(
    "a damaged metrics.jsonl and the report",
    group=GROUP,
    states="`lope report` of a run whose log is damaged in four ways: a report or one sentence.",
)
def _metrics(folder: Path) -> dict[str, Any]:
    return _each_noise(folder, "metrics.jsonl", ("report", folder / "run"))


@case("a damaged results.json", group=GROUP, states="The same of `results.json`.")
def _results(folder: Path) -> dict[str, Any]:
    return _each_noise(folder, "results.json", ("report", folder / "run"))


@case("a damaged router.json", group=GROUP, states="The same of `router.json`.")
def _router(folder: Path) -> dict[str, Any]:
    return _each_noise(folder, "router.json", ("report", folder / "run"))


@case("a damaged manifest.json", group=GROUP, states="The same of `manifest.json`.")
def _manifest(folder: Path) -> dict[str, Any]:
    return _each_noise(folder, "manifest.json", ("report", folder / "run"))


@case("a damaged run.yaml", group=GROUP, states="The same of `run.yaml`, and of `lope export`.")
def _run_yaml(folder: Path) -> dict[str, Any]:
    run = folder / "run"
    export = ("export", run, "--format", "purified", "--out", folder / "out")
    figures = _each_noise(folder, "run.yaml", ("report", run), export)
    shutil.rmtree(folder / "out", ignore_errors=True)
    return figures


@case(
    "a damaged losses file",
    group=GROUP,
    states="`lope loss` over a damaged file of earlier losses puts it aside and measures anew.",
)
def _losses(folder: Path) -> dict[str, Any]:
    finished_run(folder)
    rows = folder.parent / "inputs" / "rows.jsonl"
    command = ("loss", folder / "run", rows, "--limit", 2, "--experts", "masked")
    works(*command)
    path = folder / "run" / "losses" / "rows.json"
    content = path.read_bytes()
    for noise in ("cut", "{}", "NUL", "NaN"):
        path.write_bytes(NOISE[noise](content))
        works(*command, told=("damaged",))
        assert json.loads(path.read_text()) == json.loads(content)
    return {"damages": 4}


SIDE = ("metrics.jsonl", "manifest.json", "state.json", "router.json", "cost.json", "run.yaml")


def _links(run: Path) -> None:
    for name in SIDE[1:]:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(run.parent / "precious")


MEANWHILE: dict[str, Callable[[Path], object]] = {
    "damaged": lambda run: [(run / name).write_bytes(b"{\0") for name in SIDE],
    "removed": lambda run: [(run / name).unlink(missing_ok=True) for name in SIDE],
    "replaced by links": _links,
    "without its logs": lambda run: shutil.rmtree(run / "logs", ignore_errors=True),
    "without its rows' cache": lambda run: shutil.rmtree(run.parent / "cache", ignore_errors=True),
}


@case(
    "side files harmed while a run trains",
    group=GROUP,
    states="A run's side files are damaged, removed or replaced by links, or its logs or the cache "
    "of its rows removed, in the middle of each stage: it trains to its end, and what the links "
    "lead to is untouched.",
)
def _meanwhile(folder: Path) -> dict[str, Any]:
    os.environ["LOPE_DATA_CACHE"] = str(folder / "cache")
    real = loop.lr_factor
    for harm in MEANWHILE.values():
        recipe, run, steps = write_recipe(folder, engine__kind="local"), folder / "run", [0]
        (folder / "precious").write_text("mine")

        def factor(*arguments: Any, harm=harm, run=run, steps=steps) -> float:
            steps[0] += 1
            if steps[0] in (3, 6):
                harm(run)
            return real(*arguments)

        loop.lr_factor = factor
        try:
            works("train", recipe)
        finally:
            loop.lr_factor = real
        assert (run / "checkpoints" / "2-finetune").is_dir()
        assert json.loads((run / "state.json").read_text())["status"] == "finished"
        assert (folder / "precious").read_text() == "mine"
        shutil.rmtree(run)
    return {"harms": len(MEANWHILE)}


@case(
    "folders and pipes in the place of side files",
    group=GROUP,
    states="A folder or a named pipe, which would be waited for without end, under each name: a "
    "report leaves it out, a resume puts it aside and goes on.",
)
def _no_files(folder: Path) -> dict[str, Any]:
    for make in (Path.mkdir, os.mkfifo):
        recipe, run = stopped_run(folder), folder / "run"
        for name in SIDE[1:5]:
            (run / name).unlink(missing_ok=True)
            make(run / name)
        works("report", run, told=("it is no regular file",))
        (run / "metrics.jsonl").unlink()
        make(run / "metrics.jsonl")
        works("train", recipe, "--resume", told=("metrics.jsonl", "was put aside as"))
        assert len(list(run.glob("*.damaged-1"))) == 5
        assert json.loads((run / "state.json").read_text())["status"] == "finished"
        shutil.rmtree(run)
    return {"names": 5}
