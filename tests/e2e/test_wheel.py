"""Recipes, launch scripts and suites are in the built wheel."""

from __future__ import annotations

import subprocess
from pathlib import Path


def test_the_wheel_has_all_that_the_clone_has(installed: Path, repository: Path) -> None:
    inside = installed / "lope_dist" / "shipped"
    for name in ("configs", "eval", "launch"):
        shipped = {p.relative_to(inside) for p in (inside / name).rglob("*[!c]") if p.is_file()}
        listed = subprocess.run(
            ["git", "ls-files", name], cwd=repository, capture_output=True, text=True, check=True
        )
        assert shipped == {Path(line) for line in listed.stdout.split()}
