"""NF4's bytes in bfloat16 containers survive all that ZeRO-3 does with a frozen weight."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.launching import run_ranks, succeed

pytestmark = [pytest.mark.dist, pytest.mark.timeout(300)]


@pytest.mark.parametrize("offload", ["none", "parameters"])
def test_every_16_bit_pattern_arrives_unchanged(offload: str, tmp_path: Path) -> None:
    succeed(run_ranks(["tests/dist/workers/all_patterns.py", offload], 3, folder=tmp_path))
