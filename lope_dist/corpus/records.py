"""The examples of `data.path`, whatever it names, checked row by row when they are opened."""

from __future__ import annotations

import glob
import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows import READERS, HubDataset, Rows
from lope_dist.corpus.turns import Example, Turn, detect_format, parse_turns

__all__ = ["Example", "ExampleSource", "Turn", "open_source"]


class ExampleSource:
    """Random access to the examples of one or several files, in order.

    All rows are read once when the source is made, so that a bad one ends a run before it
    starts, and to fingerprint them. The fingerprint depends on the examples alone, neither
    on how files are cut or named nor on their format.

    Raises:
        LopeError: no row, or a bad one; names file and line or row.
    """

    def __init__(
        self,
        files: Sequence[Rows],
        name: str,
        *,
        layout: str = "auto",
        max_examples: int | None = None,
        allow_empty_response: bool = False,
    ) -> None:
        self._files = list(files)
        self._ends = list(accumulate(len(rows) for rows in files))
        total = self._ends[-1] if self._ends else 0
        self._length = total if max_examples is None else min(total, max_examples)
        self._allow_empty_response = allow_empty_response
        if self._length == 0:
            raise LopeError(f"data.path = {name!r} holds no example; give at least one.")
        self._layout = self._find_layout() if layout == "auto" else layout
        self.fingerprint = self._check_all()
        """Hash of all examples."""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        rows, local = self._locate(index)
        try:
            turns = parse_turns(
                rows.row(local), self._layout, allow_empty_response=self._allow_empty_response
            )
        except ValueError as error:
            raise LopeError(f"{rows.place(local)}: {error}.") from None
        return Example(index, turns)

    def _locate(self, index: int) -> tuple[Rows, int]:
        file = bisect_right(self._ends, index)
        return self._files[file], index - (self._ends[file - 1] if file else 0)

    def _find_layout(self) -> str:
        rows, local = self._locate(0)
        try:
            return detect_format(rows.row(local))
        except ValueError as error:
            raise LopeError(f"{rows.place(local)}: {error}.") from None

    def _check_all(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for index in range(self._length):
            turns = [[t.role, t.text, t.context] for t in self[index].turns]
            try:
                digest.update(json.dumps(turns, ensure_ascii=False).encode() + b"\n")
            except UnicodeEncodeError:
                rows, local = self._locate(index)
                raise LopeError(
                    f"{rows.place(local)}: half of a surrogate pair in the text "
                    "(a \\ud800 to \\udfff escape without its partner); remove it."
                ) from None
        return digest.hexdigest()


def open_source(config: DataConfig) -> ExampleSource:
    """Open the files or the hub data set of ``data.path``.

    A local file or glob comes first; what looks like a path is never asked of the hub.

    Raises:
        LopeError: nothing there, a foreign suffix, a folder, an empty set or a bad row.
    """
    paths = _local_files(config.path)
    files: list[Rows]
    if paths:
        if config.split != "train":
            raise LopeError(
                f"data.split = {config.split!r} with the local file {config.path!r}, which has no "
                "splits; leave data.split out, or name the split's own file."
            )
        files = [_open_file(path) for path in paths]
    else:
        files = [HubDataset(config.path, config.split)]
    return ExampleSource(
        files,
        config.path,
        layout=config.format,
        max_examples=config.max_examples,
        allow_empty_response=config.allow_empty_response,
    )


def _local_files(given: str) -> list[Path]:
    """Return the files that ``given`` names, sorted, or nothing if it is a hub name."""
    path = Path(given).expanduser()
    if path.is_file():
        return [path]
    suffixes = ", ".join(READERS)
    if path.is_dir():
        raise LopeError(
            f"data.path = {given!r} is a folder; give a file or a glob such as "
            f"'{given.rstrip('/')}/*.jsonl' (allowed: {suffixes})."
        )
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    found = [name for name in found if name.is_file()]
    is_glob = glob.has_magic(given)
    if not found and (is_glob or given.startswith((".", "/", "~")) or path.suffix in READERS):
        what = "matches no file" if is_glob else "does not exist"
        raise LopeError(
            f"data.path = {given!r} {what} (looked in {Path.cwd()}); give a {suffixes} file, "
            "a glob of such files or the name of a hub data set."
        )
    return found


def _open_file(path: Path) -> Rows:
    if path.suffix not in READERS:
        raise LopeError(
            f"data.path: {path} has the suffix '{path.suffix}'; allowed: {', '.join(READERS)}."
        )
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise LopeError(f"{path} cannot be read: {error.strerror}.") from None
