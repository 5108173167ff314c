"""The cases of the fault matrix that every test run makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.base import CASES
from faults.run import load_cases, log_of, run_case

load_cases()

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the undisturbed run they are held against is made once."""
    return tmp_path_factory.mktemp("faults")


EACH_TIME = {
    "a worker's host is lost, torchrun",
    "all processes are paused in a step",
    "sigstop",
    "sigterm",
}
"""The rest is thorough: unit tests and `tests/dist` have most of it, with fewer launches."""


def _names() -> Iterator[Any]:
    for name in (case.name for case in CASES.values() if case.in_ci):
        marks = () if name in EACH_TIME else pytest.mark.thorough
        yield pytest.param(name, marks=marks, id=name)


@pytest.mark.parametrize("name", [*_names()])
def test_survives(name: str, folder: Path) -> None:
    entry = run_case(CASES[name], folder)
    if entry["survived"] is None:
        pytest.skip(entry["error"])
    log = log_of(CASES[name], folder)
    assert entry["survived"], f"{entry['error']}\n{log.read_text()[-4000:]}"
