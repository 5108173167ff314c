"""The built wheel alone, away from any clone: recipes, launch scripts and suites are in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lope_dist.demo.corpus import write_demo

PARTS = ("lope_dist", "configs", "eval", "launch")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
LIMIT_S = 400


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tree, and install it into a folder of its own."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in PARTS:
        ignored = shutil.ignore_patterns("__pycache__")  # others may be writing there
        shutil.copytree(repository / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(repository / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(build, cwd=source, check=True, timeout=LIMIT_S)
    (wheel,) = (source / "dist").glob("*.whl")
    install = [*pip, "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=LIMIT_S)
    return site


@pytest.fixture
def lope(installed: Path, tmp_path: Path):
    """Return a function: arguments -> what `lope` of the wheel prints, in an empty folder."""
    variables = {
        "PYTHONPATH": str(installed),
        "OMP_NUM_THREADS": "1",
        "LOPE_DEMO_DATA": str(tmp_path / "demo"),
    }

    def run(*arguments: str) -> str:
        log = tmp_path / "log.txt"
        with log.open("w") as output:
            started = subprocess.Popen(
                [sys.executable, "-m", "lope_dist.cli", *arguments],
                cwd=tmp_path,
                env=os.environ | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = started.wait(LIMIT_S)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)
        assert status == 0, log.read_text()[-4000:]
        return log.read_text()

    return run


def test_the_wheel_has_all_that_the_clone_has(installed: Path, repository: Path) -> None:
    inside = installed / "lope_dist" / "shipped"
    for name in ("configs", "eval", "launch"):
        shipped = {p.relative_to(inside) for p in (inside / name).rglob("*[!c]") if p.is_file()}
        listed = subprocess.run(
            ["git", "ls-files", name], cwd=repository, capture_output=True, text=True, check=True
        )
        assert shipped == {Path(line) for line in listed.stdout.split()}


@pytest.mark.dist
@pytest.mark.model
@pytest.mark.timeout(900)
def test_own_rows_are_trained_scored_and_exported_with_nothing_but_the_wheel(
    lope, installed: Path, tmp_path: Path
) -> None:
    write_demo(tmp_path / "demo", seed=1, num_train=24, num_test_per_family=2)
    assert "recipes/quickstart" in json.loads(lope("recipes", "--json"))
    lope("recipes", "copy", "quickstart", "mine.yaml")
    short = ["data.path=demo/train.jsonl", "output_dir=run", "data.max_examples=null"]
    short += [f"train.stages.{stage}.max_steps=1" for stage in ("poison", "finetune")]
    short += ["train.global_batch=4", "train.micro_batch=2"]
    lope("launch", "train", "--ranks", "2", "mine.yaml", *short)
    demo = ["--include-path", str(installed / "lope_dist/shipped/eval/tasks/demo")]
    lope("eval", "run", "--tasks", "lope_demo_tense", *demo, "--limit", "2")
    assert json.loads((tmp_path / "run/results.json").read_text())["rows"]
    lope("export", "run", "--format", "purified", "--out", "exported")
    assert {file.name for file in (tmp_path / "exported").glob("*.safetensors")}
