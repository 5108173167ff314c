"""The benchmarks' modules, which are scripts that import each other from their own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def scripts(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function: name of a script -> its module."""
    monkeypatch.syspath_prepend(str(repository / "bench"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if Path(origin).parent == repository / "bench":
            del sys.modules[name]
