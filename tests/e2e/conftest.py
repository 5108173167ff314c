"""The built wheel, installed into a folder of its own, away from any clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = ("lope_dist", "configs", "eval", "launch")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
LIMIT_S = 400


@pytest.fixture(scope="session")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tree, and install it."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in PARTS:
        ignored = shutil.ignore_patterns("__pycache__")  # others may be writing there
        shutil.copytree(repository / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(repository / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(build, cwd=source, check=True, timeout=LIMIT_S)
    (wheel,) = (source / "dist").glob("*.whl")
    install = [*pip, "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=LIMIT_S)
    return site
