"""The cases of the fault matrix that every test run makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.base import CASES
from faults.run import load_cases, run_case

load_cases()

pytestmark = [pytest.mark.dist, pytest.mark.timeout(500)]


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if case.in_ci])
def test_survives(name: str, tmp_path: Path) -> None:
    entry = run_case(CASES[name], tmp_path)
    if entry["survived"] is None:
        pytest.skip(entry["error"])
    assert entry["survived"], (
        f"{entry['error']}\n{next(tmp_path.glob('*.log')).read_text()[-4000:]}"
    )
