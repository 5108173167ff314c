"""What `make test-latest` installs and says; the installing itself needs an index."""

from __future__ import annotations

import tomllib
from pathlib import Path

import latest

REPORT = """
FAILED tests/unit/a.py::test_one[x] - AssertionError: no
ERROR tests/unit/b.py - ImportError
==== 1 failed, 3 passed in 1.00s ====
"""


def test_upper_bounds_alone_are_taken_off(repository: Path) -> None:
    bounded = ["torch>=2.8,<2.14", "icu4py>=1.2,<1.3", "regex", "triton>=3; sys_platform == 'x'"]
    free = ["torch>=2.8", "icu4py>=1.2", "regex", "triton>=3; sys_platform == 'x'"]
    assert latest.unbounded(bounded) == free
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert not [one for one in latest.unbounded(project["dependencies"]) if "<" in one]


def test_it_says_what_is_newer_and_what_failed() -> None:
    ours, newest = {"torch": "2.13", "peft": "0.21", "old": "1"}, {"torch": "2.14", "peft": "0.21"}
    assert latest.newer(ours, newest) == ["torch 2.13 -> 2.14"]
    assert latest.failed(REPORT) == ["tests/unit/a.py::test_one[x]", "tests/unit/b.py"]
    assert latest.versions(latest.sys.executable).keys() >= {"torch", "pytest"}


def test_what_the_tests_print_is_shown_and_kept(capsys) -> None:
    script = "print('FAILED tests/unit/a.py::test_one'); raise SystemExit(3)"
    status, report = latest.run([latest.sys.executable, "-c", script])
    assert status == 3
    assert latest.failed(report) == ["tests/unit/a.py::test_one"]
    assert capsys.readouterr().out == report
