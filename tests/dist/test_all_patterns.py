"""NF4's bytes in bfloat16 containers survive all that ZeRO-3 does with a frozen weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.launching import run_ranks, succeed
from support.quick import quick

pytestmark = [pytest.mark.dist, pytest.mark.timeout(300)]


@pytest.mark.parametrize("offload", quick(["none", "parameters"], "parameters"))
def test_every_16_bit_pattern_arrives_unchanged(offload: str, tmp_path: Path) -> None:
    arguments = ["tests/dist/workers/all_patterns.py", offload, str(tmp_path)]
    succeed(run_ranks(arguments, 3, folder=tmp_path))
    for rank in range(3):
        facts = json.loads((tmp_path / f"{rank}.json").read_text())
        passes = 3 * 2 * 2  # steps, micro-batches, forward and again to go backward
        assert facts["seen"] == facts["equal"] == [passes] * 4
        assert facts["trained"] == [True] * 4
