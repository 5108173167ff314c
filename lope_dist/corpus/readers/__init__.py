"""`data.path` -> the files or hub data sets that it names, as readers of rows."""

from __future__ import annotations

import glob
import json
from pathlib import Path

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.readers.base import Rows
from lope_dist.corpus.readers.files import ALLOWED, FileRows, has_known_suffix
from lope_dist.corpus.readers.hub import HubRows

__all__ = ["Rows", "find_rows"]


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
        files = _local_files(name, section)
        found += [FileRows(path) for path in files] or [HubRows(name, section)]
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


def _local_files(given: str, section: SourceConfig) -> list[Path]:
    """Return the files that ``given`` names, or nothing if it is a hub name."""
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(path, section)
    found = [path] if path.is_file() else []
    if not found and glob.has_magic(given):
        names = map(Path, sorted(glob.glob(str(path), recursive=True)))
        found = [name for name in names if name.is_file()]
        if not found:
            raise _nothing_at(given, "matches no file")
    if not found and (given.startswith((".", "/", "~")) or has_known_suffix(path)):
        raise _nothing_at(given, "does not exist")
    if found:
        _check_no_hub_settings(given, section)
        if section.split != "train":
            raise LopeError(
                f"data.split = {section.split!r} with the local file {given!r}, which has no "
                "splits; leave data.split out, or name the split's own file."
            )
    return found


def _nothing_at(given: str, what: str) -> LopeError:
    return LopeError(
        f"data.path = {given!r} {what} (looked in {Path.cwd()}); give a file ({ALLOWED}), a glob "
        "of such files, a folder of Arrow files or the name of a hub data set."
    )


def _check_no_hub_settings(given: str, section: SourceConfig) -> None:
    for key, value in (("streaming", section.streaming), ("subset", section.subset)):
        if value:
            raise LopeError(
                f"data.{key} = {value!r} with the local {given!r} would have no effect: it is for "
                f"hub data sets; leave data.{key} out."
            )


def _folder(path: Path, section: SourceConfig) -> list[Path]:
    """Return the Arrow files of a folder, as `datasets.save_to_disk` or others write them."""
    _check_no_hub_settings(str(path), section)
    splits = path / "dataset_dict.json"
    if splits.is_file():
        names = _json(splits).get("splits", [])
        if section.split not in names:
            raise LopeError(
                f"data.split = {section.split!r} is not in the folder '{path}'; it holds the "
                f"splits {', '.join(names)}."
            )
        path = path / section.split
    elif section.split != "train":
        raise LopeError(
            f"data.split = {section.split!r} with the folder '{path}', which has no splits; leave "
            "data.split out."
        )
    state = path / "state.json"
    if state.is_file():  # of save_to_disk: it knows the order
        return [path / entry["filename"] for entry in _json(state)["_data_files"]]
    files = sorted(path.glob("*.arrow"))
    if not files:
        raise LopeError(
            f"data.path = '{path}' is a folder without Arrow files; give a file or a glob such as "
            f"'{path}/*.jsonl' (allowed: {ALLOWED})."
        )
    return files


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LopeError(f"{path} cannot be read: {error}.") from None
