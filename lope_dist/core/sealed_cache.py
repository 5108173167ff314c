"""A folder of files that can be made again: are they still what was written?"""

from __future__ import annotations

from pathlib import Path

from lope_dist.core.fingerprint import sha256_of
from lope_dist.core.runlog import read_json, write_json

_HASHES = "hashes.json"


def seal_cache(folder: Path) -> None:
    """Write down the hashes of all files of a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _HASHES)
    write_json(folder / _HASHES, {path.name: sha256_of(path) for path in files})


def cache_damage(folder: Path) -> str | None:
    """Return what of a folder is not as it was written, None if nothing is.

    A folder without hashes, of before there were any, is sealed as it is.
    """
    try:
        if not (folder / _HASHES).exists():
            seal_cache(folder)
        for name, digest in read_json(folder / _HASHES).items():
            if sha256_of(folder / name) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return str(error).rstrip(".")
    return None
