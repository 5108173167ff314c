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

__all__ = ["Rows", "find_rows", "is_meant_as_a_path"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_rows(section: SourceConfig) -> list[Rows]:
    """Return the readers of a source, in order; files of a glob or folder are sorted.

    A local file, folder or glob comes first; what looks like a path is never asked of the hub.

    Raises:
        LopeError: nothing there, a foreign suffix, a file named twice, or a setting that the
            source cannot follow.
    """
    names = (section.path,) if isinstance(section.path, str) else section.path
    readers: list[Rows] = []
    for name in names:
        local = _local_rows(name, section)
        if not local and os.environ.get("RANK", "0") == "0":
            notice = f"data.path = {name!r} is no file or folder here (looked in {Path.cwd()})"
            print(f"{notice}; the hub is asked.", file=sys.stderr)
        readers += local or [HubRows(name, section)]
    paths: set[Path] = set()
    for rows in readers:
        if isinstance(rows, FileRows):
            if (path := rows.path.resolve()) in paths:
                raise LopeError(
                    f"data.path names {rows.path} twice; to read its examples more often, give "
                    "data.sources a weight."
                )
            paths.add(path)
    return readers


def _local_rows(name: str, section: SourceConfig) -> list[FileRows]:
    """Return the files of a local path or glob; none of the name of a hub data set."""
    path = Path(name).expanduser()
    if path.is_dir():
        _check_no_hub_settings(name, streaming=section.streaming)
        files, note = find_split(path, section)
        return [FileRows(file, note if n == 0 else "") for n, file in enumerate(files)]
    files = [path] if path.is_file() else []
    if not files and glob.has_magic(name):
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
        files = [match for match in matches if match.is_file() and not is_cache(match)]
        if not files:
            raise _nothing_at(name, "matches no file")
    if not files and is_meant_as_a_path(name):
        raise _nothing_at(name, "does not exist")
    if files:
        _check_no_hub_settings(name, streaming=section.streaming, subset=section.subset)
        if section.split != "train":
            raise LopeError(
                f"data.split = {section.split!r} with the local file {name!r}, which has no "
                "splits; leave data.split out, or name the split's own file."
            )
    return [FileRows(file) for file in files]


def is_meant_as_a_path(name: str) -> bool:
    """Tell whether this can be no data set of the hub, or lies in a folder that is there."""
    path = Path(name)
    return (
        not _HUB_NAME.fullmatch(name)
        or name.startswith((".", "~"))
        or has_known_suffix(path)
        or path.parent.is_dir()
    )


def _nothing_at(name: str, problem: str) -> LopeError:
    return LopeError(
        f"data.path = {name!r} {problem} (looked in {Path.cwd()}); give a file ({ALLOWED}), a glob "
        "of such files, a folder, or a data set of the hub as owner/name."
    )


def _check_no_hub_settings(name: str, **settings: object) -> None:
    for key, value in settings.items():
        if value:
            raise LopeError(
                f"data.{key} = {value!r} with the local {name!r} would have no effect: it is for "
                f"hub data sets; leave data.{key} out."
            )
