"""The shape of the code base: file sizes, and who may import whom by name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300
LONGER: dict[str, int] = {}
"""Files that may be longer, with their own limit: growth is a decision."""

SOURCES = sorted(
    path
    for folder in ("lope_dist", "launch", "eval", "bench", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def test_files_stay_small() -> None:
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert lines, "none were looked at"
    assert {n: num for n, num in lines.items() if num > LONGER.get(n, LIMIT)} == {}


def test_each_package_says_what_does_not_belong_there() -> None:
    rooms = sorted((ROOT / "lope_dist").glob("*/__init__.py"))
    assert rooms
    assert [room for room in rooms if "Not here:" not in room.read_text().split('"""')[1]] == []


def test_adapters_alone_set_what_their_layers_read() -> None:
    """Others describe a batch, begin a stage or ask within `answering`; nobody sets a field."""
    setters = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if not path.is_relative_to(ROOT / "lope_dist" / "adapters")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and not isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value).rpartition(".")[2] in ("context", "_context", "lope_context")
    ]
    assert setters == []


def test_make_test_runs_every_folder_that_starts_ranks() -> None:
    (folders,) = re.findall(r"^RANKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    marked = [
        p for p in SOURCES if "pytest.mark.dist" in p.read_text() and p.name != "test_structure.py"
    ]
    assert marked
    named = [ROOT / folder for folder in folders.split()]
    assert [p for p in marked if not {*named} & {*p.parents}] == []


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("deepspeed", ("engine/",)),
        ("bitsandbytes", ("model/nf4.py",)),
        ("lm_eval", ("evaluate/harness/",)),
        ("datatrove", ("corpus/built/cluster.py",)),
    ],
)
def test_heavy_libraries_have_one_home(library: str, allowed: tuple[str, ...]) -> None:
    pattern = re.compile(rf"^\s*(import|from) {library}\b", re.MULTILINE)
    package = ROOT / "lope_dist"
    users = [
        str(p.relative_to(package)) for p in package.rglob("*.py") if pattern.search(p.read_text())
    ]
    assert users
    assert [user for user in users if not user.startswith(allowed)] == []
