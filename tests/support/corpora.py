"""Build corpora in tests, and look at their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lope_dist.corpus.built.build import Built, Recipe, build


def make(recipe: Recipe, folder: Path, **settings: Any) -> Built:
    return build(recipe, folder, progress=False, **settings)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a corpus but the locks: name -> bytes."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
