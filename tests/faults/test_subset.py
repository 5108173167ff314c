"""The cases of the fault matrix that `make test-all` makes.

Of `make test`, `test_death.py` and `test_ctrl_c.py` of `tests/dist` end processes of a launch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.base import CASES
from faults.run import load_cases, log_of, run_case

load_cases()

pytestmark = [pytest.mark.dist, pytest.mark.thorough, pytest.mark.timeout(1300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the undisturbed run they are held against is made once."""
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if case.in_ci])
def test_survives(name: str, folder: Path) -> None:
    entry = run_case(CASES[name], folder)
    if entry["survived"] is None:
        pytest.skip(entry["error"])
    log = log_of(CASES[name], folder)
    assert entry["survived"], f"{entry['error']}\n{log.read_text()[-4000:]}"
