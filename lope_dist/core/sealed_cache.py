"""A folder of files that can be made again: are they still what was written?"""

from __future__ import annotations

from pathlib import Path

from lope_dist.core.fingerprint import sha256_of
from lope_dist.core.runlog import read_json, write_json

_HASHES = "hashes.json"


def seal_cache(folder: Path) -> None:
    """Write down the hashes of all files of a folder."""
    write_json(folder / _HASHES, {name: sha256_of(folder / name) for name in _names(folder)})


def cache_damage(folder: Path) -> str | None:
    """Return what of a folder is not as it was written, None if nothing is."""
    try:
        hashes = read_json(folder / _HASHES)
        if not isinstance(hashes, dict):
            return f"{_HASHES} holds no hashes"
        for name in sorted({*hashes, *_names(folder)}):
            if name not in hashes:
                return f"{name} was not written there"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_of(folder / name) != hashes[name]:
                return f"{name} is not what was written"
    except (OSError, ValueError, TypeError) as error:
        return str(error).rstrip(".")
    return None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != _HASHES)
