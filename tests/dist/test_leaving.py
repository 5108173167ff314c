"""A rank's status is that of its error, whatever its communication threads are still doing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.timeout(120)]


def test_collectives_under_way_do_not_abort_a_rank(tmp_path: Path) -> None:
    ranks = run_ranks(
        ["tests/dist/workers/leaving.py"], 2, folder=tmp_path, timeout_s=90, is_warm=False
    )
    for number, rank in enumerate(ranks):
        assert rank.status == 2, rank.output
        assert f"error (rank {number}): Something is wrong." in rank.output
        assert "taken apart" not in rank.output
