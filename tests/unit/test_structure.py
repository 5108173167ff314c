"""The shape of the code base: file sizes, and who may import whom by name."""

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


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("deepspeed", ("engine/",)),
        ("bitsandbytes", ("model/nf4.py",)),
        ("lm_eval", ("evaluate/",)),
        ("datatrove", ("corpus/cluster.py",)),
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
