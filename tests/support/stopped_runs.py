"""A whole run as it was when it had come to one of its checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path


def stopped_at(checkpoint: str, run: Path, target: Path) -> Path:
    """Copy a run without its other checkpoints, so that a resume starts from this one."""
    shutil.copytree(run, target)
    for other in (target / "checkpoints").iterdir():
        if other.name != checkpoint:
            shutil.rmtree(other)
    return target
