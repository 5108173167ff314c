"""The Triton kernels compile for a GPU that is not there, down to its machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is an extra of development")
SCRIPT = Path(__file__).resolve().parents[3] / "support" / "compile_kernels.py"


@pytest.mark.thorough
@pytest.mark.parametrize("sizes", [["--few"], []], ids=["few", "all"])
def test_the_kernels_compile_for_hopper(repository: Path, tmp_path: Path, sizes: list[str]) -> None:
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),  # what is compiled now, not some day
        "PYTHONPATH": str(repository),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "90"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kernel"] for line in lines} == {
        "projection._forward",
        "projection._backward",
        "routing._forward",
        "routing._backward",
        "masked._masked",
    }
    assert all(line["cubin_bytes"] for line in lines)
    assert max(line["shared_bytes"] for line in lines) <= 96 * 1024  # two programs on each SM
