"""The runner of the fault matrix tells survival, loss and what it could not run apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from faults import run
from faults.table import write_docs

CASES = """
import subprocess, sys
from faults.base import NotRun, case

@case("fine", group="G", states="It lives.")
def fine(folder):
    assert not any(folder.iterdir())
    return {"seconds": 1.5}

@case("lost", group="G", states="It dies.")
def lost(folder):
    raise AssertionError("it is | gone\\nand more")

@case("absent", group="H", states="It needs a thing.")
def absent(folder):
    raise NotRun("not installed: thing")

@case("untidy", group="H", states="It leaves a process.")
def untidy(folder):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    return {}
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run four made-up cases through the real runner."""
    package = tmp_path / "tests" / "faults"
    package.mkdir(parents=True)
    for name in ("base.py", "run.py", "table.py"):
        (package / name).write_text((Path(run.__file__).parent / name).read_text())
    (package / "cases_made_up.py").write_text(CASES)
    done = subprocess.run(
        [sys.executable, "-m", "faults.run"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "tests"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1, done.stderr
    assert "1 of 3 cases survived; 0 not tried yet." in done.stdout
    return json.loads((tmp_path / "runs" / "faults.json").read_text())


def test_each_end_is_told_apart(table: dict, tmp_path: Path) -> None:
    by_name = {entry["name"]: entry for entry in table["matrix"]}
    assert by_name["fine"]["survived"] is True
    assert by_name["fine"]["figures"] == {"seconds": 1.5}
    assert (by_name["lost"]["survived"], by_name["lost"]["error"]) == (False, "it is | gone")
    assert by_name["absent"]["survived"] is None
    assert by_name["untidy"]["survived"] is False
    assert "left processes running" in by_name["untidy"]["error"]
    assert (table["cases"], table["survived"], table["not_run"]) == (3, 1, 1)
    write_docs(table, 2, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "1 of 3 cases survived; 1 could not be run on this machine; 2 were not tried." in page
    assert "| fine | It lives. | yes |" in page
    assert r"| lost | It dies. | **no**: it is \| gone |" in page
    assert "| absent | It needs a thing. | not run: not installed: thing |" in page
    assert page.index("## G") < page.index("| lost") < page.index("## H") < page.index("| absent")
