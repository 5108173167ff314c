"""`data.path` -> the files or hub data sets that it names, as readers of rows."""

from __future__ import annotations

import glob
import os
import re
import sys
from pathlib import Path

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.readers.base import Rows
from lope_dist.corpus.rows.readers.files import ALLOWED, FileRows, has_known_suffix
from lope_dist.corpus.rows.readers.folders import find_split, is_cache
from lope_dist.corpus.rows.readers.hub import HubRows

__all__ = ["Rows", "find_rows"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_rows(section: SourceConfig) -> list[Rows]:
    """Return the readers of a source, in order; files of a glob or folder are sorted.

    A local file, folder or glob comes first; what looks like a path is never asked of the hub.

    Raises:
        LopeError: nothing there, a foreign suffix, a file named twice, or a setting that the
            source cannot follow.
    """
    names = (section.path,) if isinstance(section.path, str) else section.path
    found: list[Rows] = []
    for name in names:
        local = _local_rows(name, section)
        if not local and os.environ.get("RANK", "0") == "0":
            told = f"data.path = {name!r} is no file or folder here (looked in {Path.cwd()})"
            print(f"{told}; the hub is asked.", file=sys.stderr)
        found += local or [HubRows(name, section)]
    seen: set[Path] = set()
    for rows in found:
        if isinstance(rows, FileRows):
            if (path := rows.path.resolve()) in seen:
                raise LopeError(
                    f"data.path names {rows.path} twice; to read its examples more often, give "
                    "data.sources a weight."
                )
            seen.add(path)
    return found


def _local_rows(given: str, section: SourceConfig) -> list[FileRows]:
    """Return the files that ``given`` names, or nothing if it is a hub name."""
    path = Path(given).expanduser()
    if path.is_dir():
        _check_no_hub_settings(given, streaming=section.streaming)
        files, note = find_split(path, section)
        return [FileRows(file, note if n == 0 else "") for n, file in enumerate(files)]
    found = [path] if path.is_file() else []
    if not found and glob.has_magic(given):
        names = map(Path, sorted(glob.glob(str(path), recursive=True)))
        found = [name for name in names if name.is_file() and not is_cache(name)]
        if not found:
            raise _nothing_at(given, "matches no file")
    if not found and _is_meant_as_a_path(given):
        raise _nothing_at(given, "does not exist")
    if found:
        _check_no_hub_settings(given, streaming=section.streaming, subset=section.subset)
        if section.split != "train":
            raise LopeError(
                f"data.split = {section.split!r} with the local file {given!r}, which has no "
                "splits; leave data.split out, or name the split's own file."
            )
    return [FileRows(file) for file in found]


def _is_meant_as_a_path(given: str) -> bool:
    """Tell whether this can be no data set of the hub, or lies in a folder that is there."""
    path = Path(given)
    return (
        not _HUB_NAME.fullmatch(given)
        or given.startswith((".", "~"))
        or has_known_suffix(path)
        or path.parent.is_dir()
    )


def _nothing_at(given: str, what: str) -> LopeError:
    return LopeError(
        f"data.path = {given!r} {what} (looked in {Path.cwd()}); give a file ({ALLOWED}), a glob "
        "of such files, a folder, or a data set of the hub as owner/name."
    )


def _check_no_hub_settings(given: str, **settings: object) -> None:
    for key, value in settings.items():
        if value:
            raise LopeError(
                f"data.{key} = {value!r} with the local {given!r} would have no effect: it is for "
                f"hub data sets; leave data.{key} out."
            )
