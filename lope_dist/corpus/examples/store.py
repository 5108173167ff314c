"""Examples on disk, in one form for all that they were read from, with random access.

A store is a folder of three files, written once and never changed:

    examples.jsonl   an example a line: [[role, text, context], ...]
    offsets.u64      where each line begins, and where the last one ends
    index.json       fingerprint, number of examples of each source, rows left out, and the
                     hashes of the blocks of the other two; its own is in index.json.sha256

All three are held against their hashes when a store is opened, and a large file where it is read. A
store that differs from what was written is damaged: it is reported and made again.

Reading is `pread`: no process maps or holds the data, all share the system's file cache, and an
open store survives the removal of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from lope_dist.core.blocks import BlockCheck, BlockHasher, DamagedBlock, hash_blocks
from lope_dist.core.errors import LopeError, TryAgain, first_line
from lope_dist.core.files import cache_dir, write_atomic
from lope_dist.core.locks import file_lock

_VARIABLE = "LOPE_DATA_CACHE"
_EXAMPLES, _OFFSETS, _INDEX = "examples.jsonl", "offsets.u64", "index.json"
_FLUSH = 1 << 16
_BLOCK = 1 << 12
_BUFFER = 1 << 20
_HASHES, _SEAL = "blocks", f"{_INDEX}.sha256"


def data_cache() -> Path:
    """Return the folder of stores: `$LOPE_DATA_CACHE`, else `data` in the common cache."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder).expanduser() if folder else cache_dir() / "data"


class Lines(Protocol):
    """Examples in a store's form, with random access."""

    @property
    def index(self) -> dict[str, Any]:
        """What was written beside the examples."""
        ...

    def __len__(self) -> int: ...

    def line(self, index: int, /) -> bytes:
        """Return one example's line."""
        ...

    def lines(self, start: int, stop: int, /) -> Iterator[bytes]:
        """Yield the lines of a range in order."""
        ...


class Store:
    """The examples of one store.

    It can be pickled: a copy opens the files again.

    Raises:
        Exception: of any kind: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.index: dict[str, Any] = _verified_index(folder)
        """What was written beside the examples."""
        hashes = self.index.pop(_HASHES)
        self._examples, self._offsets = (
            _CheckedFile(folder / name, hashes[name]) for name in (_EXAMPLES, _OFFSETS)
        )
        self._length = self._offsets.size // 8 - 1
        if self._length < 0 or self._bounds(self._length, 0)[0] != self._examples.size:
            raise ValueError("its files do not fit together")

    def __len__(self) -> int:
        return self._length

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self._folder,)

    def line(self, index: int) -> bytes:
        """Return one example's line.

        Raises:
            TryAgain: the store went bad while it was in use.
        """
        with self._kept_whole():
            start, end = self._bounds(index, 1)
            return self._examples.read(start, end - start)

    def lines(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the lines of a range in order.

        Raises:
            TryAgain: the store went bad while it was in use.
        """
        for first in range(start, stop, _BLOCK):
            with self._kept_whole():
                bounds = self._bounds(first, min(_BLOCK, stop - first))
                block = [self._examples.read(a, b - a) for a, b in pairwise(bounds)]
            yield from block

    def _bounds(self, first: int, count: int) -> tuple[int, ...]:
        """Return where ``count`` lines begin, and where the last one ends."""
        return struct.unpack(f"={count + 1}Q", self._offsets.read(8 * first, 8 * (count + 1)))

    @contextmanager
    def _kept_whole(self) -> Iterator[None]:
        try:
            yield
        except DamagedBlock as damage:
            (self._folder / _SEAL).unlink(missing_ok=True)  # so that nobody opens it again
            raise TryAgain(
                f"The examples cached in {self._folder} are damaged: {damage}. Start again; the "
                "data will be read again."
            ) from None


class _CheckedFile:
    """A file that is open for reading; what is read was hashed."""

    def __init__(self, path: Path, hashes: list[str]) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._blocks = BlockCheck(path.name, self.size, hashes, self._read)

    def read(self, start: int, count: int) -> bytes:
        """Return bytes of the file.

        Raises:
            DamagedBlock: they are not what was written.
        """
        self._blocks.of_range(start, start + count)
        return self._read(start, count)

    def _read(self, start: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, start)


class StoreWriter:
    """The files of a store that is being written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._examples = (folder / _EXAMPLES).open("wb", buffering=_BUFFER)
        self._offsets = (folder / _OFFSETS).open("wb")
        self._waiting, self._end = array("Q", [0]), 0
        self._hasher = BlockHasher()

    def add(self, line: bytes) -> None:
        """Append an example's line, which ends with a line feed."""
        self._examples.write(line)
        self._hasher.update(line)
        self._end += len(line)
        self._waiting.append(self._end)
        if len(self._waiting) >= _FLUSH:
            self._write_offsets()

    def finish(self, index: dict[str, Any]) -> None:
        """Write what is left, to disk."""
        self._write_offsets()
        for file in (self._examples, self._offsets):
            file.flush()
            os.fsync(file.fileno())
        hashes = {
            _EXAMPLES: self._hasher.finish(),
            _OFFSETS: hash_blocks(self._folder / _OFFSETS),
        }
        text = json.dumps(index | {_HASHES: hashes}).encode()
        write_atomic(self._folder / _INDEX, text)
        write_atomic(self._folder / _SEAL, hashlib.sha256(text).hexdigest())

    def close(self) -> None:
        """Close the files."""
        self._examples.close()
        self._offsets.close()

    def _write_offsets(self) -> None:
        self._waiting.tofile(self._offsets)
        del self._waiting[:]


def open_store(key: str, write: Callable[[StoreWriter], dict[str, Any]]) -> Store:
    """Return the store of a key; where there is none, ``write`` fills it and returns its index.

    Any number of processes may call this at once: one writes, the others wait. A store is
    there whole or not at all.

    Raises:
        LopeError: the cache folder cannot be written; and whatever ``write`` raises.
    """
    folder = data_cache() / key
    store = _open_whole(folder)
    if store is not None:
        return store
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(Path(f"{folder}.lock")):
            return _open_whole(folder, tells=True) or _write(folder, write)
    except OSError as error:
        reason = error.strerror or error
        raise LopeError(
            f"The examples cannot be kept in the cache folder '{folder.parent}': {reason}; set "
            f"{_VARIABLE} to a folder with room for them."
        ) from None


def _open_whole(folder: Path, *, tells: bool = False) -> Store | None:
    """Return the store if it is there and what was written."""
    if not folder.is_dir():
        return None
    try:
        return Store(folder)
    except Exception as error:  # of any kind: nothing in a cache is worth more than its making
        if tells:
            reason = first_line(error)
            notice = f"The examples cached in {folder} are damaged ({reason}): read anew."
            print(notice, file=sys.stderr)
        return None


def _verified_index(folder: Path) -> dict[str, Any]:
    """Return a store's index.

    Raises:
        ValueError: it is not what was written.
    """
    text = (folder / _INDEX).read_bytes()
    if hashlib.sha256(text).hexdigest() != (folder / _SEAL).read_text():
        raise ValueError(f"{_INDEX} is not what was written")
    return json.loads(text)


def _write(folder: Path, write: Callable[[StoreWriter], dict[str, Any]]) -> Store:
    """Write a store beside its place and move it there; the caller holds the lock."""
    beside = folder.with_name(f"{folder.name}.part")
    for left_over in (beside, folder):  # of a process that was killed; of a damaged store
        shutil.rmtree(left_over, ignore_errors=True)
    writer = StoreWriter(beside)
    try:
        writer.finish(write(writer))
        writer.close()
        beside.rename(folder)
    finally:
        try:
            writer.close()
        finally:  # on a full disk even that fails
            shutil.rmtree(beside, ignore_errors=True)
    return Store(folder)
