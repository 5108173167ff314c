"""20,000 made-up inputs for whatever a stranger may have written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.base import case
from support.launching import REPOSITORY, rank_environment

INPUTS, KINDS = 20_000, 9
"""Kinds of inputs: see `tests/unit/test_fuzz.py`."""
MOST_MIB = 2048


@case(
    "20,000 made-up inputs",
    group="Made-up inputs",
    states=f"{INPUTS:,} made-up safetensors headers, manifests, side files, logs and recipes: the "
    f"value or one sentence, 5 s each at most, within {MOST_MIB} MiB.",
    limit_s=3000.0,
)
def _fuzz(folder: Path) -> dict[str, Any]:
    each = -(-INPUTS // KINDS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/unit/test_fuzz.py", "-q", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        env=rank_environment(folder) | {"LOPE_FUZZ": str(each)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"{KINDS} passed" in done.stdout, done.stdout[-500:]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    mib = used.ru_maxrss // 1024
    assert mib < MOST_MIB, mib
    ms = (used.ru_utime + used.ru_stime) * 1000 / (each * KINDS)
    return {"inputs": each * KINDS, "ms each": round(ms, 1), "peak MiB": mib}
