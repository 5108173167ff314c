"""An export's folder: whole or absent, and never over one that exists."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lope_dist.core.errors import LopeError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Context with a folder to write into; it becomes ``out`` when the block ends well.

    Raises:
        LopeError: ``out`` exists, or cannot be written; nothing is left behind.
    """
    refuse_existing(out)
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
        for path in (*staging.rglob("*"), staging):
            if path.is_file():
                path.chmod(0o644)  # safetensors gives its files to their owner alone
            _sync(path)
        refuse_existing(out)  # meanwhile another export may have ended there
        staging.rename(out)
        _sync(out.parent)
    except (OSError, SafetensorError) as error:
        raise LopeError(
            f"The export to '{out}' could not be written ({error}); nothing was left there."
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Refuse a path that is taken.

    Raises:
        LopeError: ``out`` exists.
    """
    if out.exists():
        raise LopeError(f"'{out}' exists already and was left as it is; name another --out.")


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return bytes and sha256 of each file by name."""
    described = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = str(path.relative_to(folder))
        described[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return described


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
