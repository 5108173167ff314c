"""A folder that is whole or absent: a manifest of hashes, written last, and what it proves."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

from lope_dist.core.errors import LopeError, NewerFormat, refuse_newer
from lope_dist.core.fingerprint import sha256_of
from lope_dist.core.runlog import read_json, write_json

MANIFEST = "MANIFEST.json"
_FORMAT = 1


def seal(folder: Path) -> None:
    """Write the manifest of all files of ``folder``, and sync every one of them to disk."""
    files = {}
    for path in sorted(folder.rglob("*")):
        _sync(path)
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = {
                "size": path.stat().st_size,
                "sha256": sha256_of(path),
            }
    write_json(folder / MANIFEST, {"format": _FORMAT, "files": files})
    _sync(folder)


def publish(staging: Path, final: Path) -> None:
    """Give a sealed folder its name, and make the name last."""
    staging.rename(final)
    _sync(final.parent)


def defect(folder: Path) -> str | None:
    """Return why a folder is not as it was sealed, None if it is. Reads all of its files.

    Files that the manifest does not name are not looked at; nobody reads them.

    Raises:
        NewerFormat: a newer version of the program has sealed it.
    """
    try:
        files = sealed_files(folder)
        for name, entry in files.items():
            path = folder / name
            if _leads_out(folder, name):
                return f"{name} is a link, and could lead out of the folder"
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes and was written with {entry['size']}"
            if sha256_of(path) != entry["sha256"]:
                return f"{name} is not as it was written (its sha256 differs)"
    except NewerFormat:
        raise  # it is whole, and nothing may be trained or written over it
    except LopeError as error:
        return str(error).rstrip(".")
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"
    return None


def read_sealed(folder: Path, name: str) -> bytes:
    """Return a file's content, the very bytes of which the hash was checked.

    Raises:
        LopeError: it is not there, or not as it was written.
    """
    entry = sealed_files(folder).get(name)
    if entry is None:
        raise LopeError(f"{folder} has no {name}: its {MANIFEST} does not name it.")
    if _leads_out(folder, name):
        raise LopeError(f"{folder / name} is a link, and could lead out of the folder.")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise LopeError(f"{folder / name} cannot be read ({error.strerror}).") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise LopeError(
            f"{folder / name} is not the file that was written (its sha256 is not that of "
            f"{MANIFEST}); restore it from a copy or remove the folder."
        )
    return content


def sealed_files(folder: Path) -> dict[str, dict]:
    """Return `size` and `sha256` of each file that a folder was sealed with.

    Raises:
        LopeError: there is no manifest, or it is not one.
    """
    manifest = read_json(folder / MANIFEST)
    try:
        refuse_newer(manifest["format"], _FORMAT, folder / MANIFEST)
        files = manifest["files"]
        for name, entry in files.items():
            if not _is_inside(name) or not {"size", "sha256"} <= set(entry):
                raise LopeError(f"{folder / MANIFEST} has a bad entry {name!r}")
    except (TypeError, KeyError, AttributeError):
        raise LopeError(f"{folder / MANIFEST} is not a manifest") from None
    return files


def _is_inside(name: str) -> bool:
    """Return whether a name is that of a file in a folder, or in a folder inside of it."""
    path = PurePosixPath(name)
    is_plain = bool(path.parts) and path.as_posix() == name
    return is_plain and not path.is_absolute() and ".." not in path.parts


def _leads_out(folder: Path, name: str) -> bool:
    """Return whether a file, or a folder that the file is in, is a link."""
    path = PurePosixPath(name)
    return any((folder / part).is_symlink() for part in (path, *path.parents[:-1]))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
