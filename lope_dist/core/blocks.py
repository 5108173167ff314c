"""Hashes of a file's blocks: what is read is what was written, and opening a file stays cheap.

A file is hashed whole when it is opened, up to a bound. Of a larger one some blocks are, spread
over it, and the others when something in them is first read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

BLOCK = 1 << 20
_DIGITS = 16
"""Of a block's hash, hexadecimal: 64 bits tell damage, which is no forgery."""
_WHOLE_BLOCKS = 64
"""Files up to this many blocks are hashed whole when they are opened, in some 40 ms."""
_SAMPLES = 16
"""Blocks of a larger one."""


class DamagedBlock(ValueError):
    """A block is not what was written; the message names file, block and bytes."""


class BlockHasher:
    """The hashes of a file that is being written."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._block, self._left = hashlib.sha256(), BLOCK

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            part, view = view[: self._left], view[self._left :]
            self._block.update(part)
            self._left -= len(part)
            if not self._left:
                self._end_block()

    def finish(self) -> list[str]:
        """Return the hashes of all blocks; the last one may be shorter."""
        if self._left < BLOCK:
            self._end_block()
        return self._done

    def _end_block(self) -> None:
        self._done.append(self._block.hexdigest()[:_DIGITS])
        self._block, self._left = hashlib.sha256(), BLOCK


def hash_blocks(path: Path) -> list[str]:
    """Return the hashes of a file's blocks."""
    hasher = BlockHasher()
    with path.open("rb") as file:
        while data := file.read(BLOCK):
            hasher.update(data)
    return hasher.finish()


class BlockCheck:
    """Sees to it that no byte of a file is used that was not hashed before.

    Args:
        name: Of the file, for messages.
        size: Of the file.
        hashes: Of its blocks, as they were written.
        read: Returns ``count`` bytes from ``start`` on.
        unchecked: A byte for each block, 0 for one that was hashed: what an earlier check of the
            same file has left. None: nothing was looked at.

    Raises:
        DamagedBlock: a block that was looked at, or the size, is not what was written.
    """

    def __init__(
        self,
        name: str,
        size: int,
        hashes: Sequence[str],
        read: Callable[[int, int], bytes | memoryview],
        unchecked: bytearray | None = None,
    ) -> None:
        self._name, self._size, self._hashes, self._read = name, size, hashes, read
        if -(-size // BLOCK) != len(hashes):
            raise DamagedBlock(
                f"{name} has {size} bytes and was written with {len(hashes)} blocks of {BLOCK}"
            )
        self._unchecked = all_blocks(hashes) if unchecked is None else unchecked
        self._check_blocks(_spread(len(hashes)))

    def of_range(self, start: int, stop: int) -> None:
        """Hash the blocks of bytes ``start`` to ``stop`` that were not hashed yet.

        Raises:
            DamagedBlock: one of them is not what was written.
        """
        first, last = max(0, start) // BLOCK, -(-min(stop, self._size) // BLOCK)
        if self._unchecked.find(1, first, last) >= 0:
            self._check_blocks(range(first, last))

    def _check_blocks(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if not self._unchecked[number]:
                continue
            start = number * BLOCK
            data = self._read(start, min(BLOCK, self._size - start))
            if hashlib.sha256(data).hexdigest()[:_DIGITS] != self._hashes[number]:
                raise DamagedBlock(
                    f"{self._name} is not what was written in block {number + 1} of "
                    f"{len(self._hashes)}, bytes {start} to {start + len(data)}"
                )
            self._unchecked[number] = 0


def all_blocks(hashes: Sequence[str]) -> bytearray:
    """Return the mark of a file of which no block was hashed yet."""
    return bytearray(b"\1" * len(hashes))


def _spread(num_blocks: int) -> Sequence[int]:
    """Return the blocks to look at when a file is opened, the first and the last among them."""
    if num_blocks <= _WHOLE_BLOCKS:
        return range(num_blocks)
    return [i * (num_blocks - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)]
