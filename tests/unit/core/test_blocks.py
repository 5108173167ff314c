"""Every byte that is used was hashed, and a damaged block is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lope_dist.core import blocks
from lope_dist.core.blocks import BlockCheck, BlockHasher, DamagedBlock, hash_blocks


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 10)
    monkeypatch.setattr(blocks, "_WHOLE_BLOCKS", 4)
    monkeypatch.setattr(blocks, "_SAMPLES", 3)


def check(content: bytes, hashes: Sequence[str], **settings) -> tuple[BlockCheck, list[int]]:
    """Return a check, and where the blocks begin that it has read."""
    looked: list[int] = []

    def read(start: int, count: int) -> bytes:
        looked.append(start)
        return content[start : start + count]

    return BlockCheck("x", len(content), hashes, read, **settings), looked


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 40, 95])
@pytest.mark.parametrize("piece", [1, 3, 10, 64])
def test_hashes_while_writing_are_those_of_the_file(size: int, piece: int, tmp_path: Path) -> None:
    content = bytes(range(size))
    hasher = BlockHasher()
    for start in range(0, size, piece):
        hasher.update(content[start : start + piece])
    (tmp_path / "x").write_bytes(content)
    hashes = hasher.finish()
    assert hashes == hash_blocks(tmp_path / "x")
    assert len(hashes) == -(-size // 10)
    check(content, hashes)


def hashes_of(content: bytes) -> list[str]:
    """Return the hashes of what was written."""
    hasher = BlockHasher()
    hasher.update(content)
    return hasher.finish()


def test_a_small_file_is_hashed_whole_and_the_block_named() -> None:
    content = bytes(range(35))
    _, looked = check(content, hashes_of(content))
    assert looked == [0, 10, 20, 30]
    with pytest.raises(DamagedBlock, match=r"x is .* block 4 of 4, bytes 30 to 35"):
        check(content[:-1] + b"!", hashes_of(content))
    with pytest.raises(DamagedBlock, match=r"has 29 bytes .* 4 blocks"):
        check(content[:29], hashes_of(content))


def test_of_a_large_file_some_blocks_are_hashed_and_others_when_they_are_read() -> None:
    content = bytes(range(100))
    own, looked = check(content, hashes_of(content))
    assert looked == [0, 40, 90], "the first, one between, the last"
    own.of_range(15, 31)
    assert looked[3:] == [10, 20, 30]
    own.of_range(12, 35)
    own.of_range(95, 400)
    assert len(looked) == 6, "no block twice"


def test_a_damaged_block_of_a_large_file_is_found_where_it_is_read() -> None:
    content = bytes(range(100))
    harmed = content[:25] + b"!" + content[26:]
    own, _ = check(harmed, hashes_of(content))
    own.of_range(0, 20)
    own.of_range(30, 100)
    for _ in range(2):
        with pytest.raises(DamagedBlock, match="block 3 of 10, bytes 20 to 30"):
            own.of_range(19, 21)


def test_what_another_check_has_hashed_is_not_hashed_again() -> None:
    content = bytes(range(100))
    unchecked = blocks.all_blocks(hashes_of(content))
    check(content, hashes_of(content), unchecked=unchecked)
    assert list(unchecked) == [0, 1, 1, 1, 0, 1, 1, 1, 1, 0]
    _, looked = check(content, hashes_of(content), unchecked=unchecked)
    assert looked == []
