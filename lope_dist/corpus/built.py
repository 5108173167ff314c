"""Read examples out of a built corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import sha256_of
from lope_dist.corpus.manifest import Manifest, ShardRecord, read_manifest, shard_path
from lope_dist.corpus.shards import Row, Shard

_OPEN_SHARDS = 128  # a memory map holds a file descriptor


class BuiltCorpus:
    """Random access to the rows of every view; only what is asked for is read.

    A shard's content is held against its hash when it is first asked for.

    Raises:
        LopeError: no finished corpus, or a shard that is missing or of another size.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._size = self.manifest.fingerprint.shard_examples
        self._shards: dict[tuple[str, int], ShardRecord] = {}
        for shard in self.manifest.shards:
            self._shards[shard.view, shard.first // self._size] = shard
            self._check_size(shard)
        self._verified: set[str] = set()
        self._open = lru_cache(_OPEN_SHARDS)(self._open_shard)

    def rows(self, view: str, ids: Sequence[int]) -> list[Row]:
        """Return examples of a view, in the order asked for.

        Raises:
            LopeError: a damaged shard.
        """
        by_shard: dict[int, list[int]] = {}
        for index in ids:
            by_shard.setdefault(index // self._size, []).append(index)
        found: dict[int, Row] = {}
        for number, own in by_shard.items():
            rows = self._open(view, number).rows([index % self._size for index in own])
            found.update(zip(own, rows, strict=True))
        for index, row in found.items():
            if row.tokens.example_id != index:
                raise LopeError(
                    f"{self._folder}: example {row.tokens.example_id} of view '{view}' stands in "
                    f"the place of example {index}; run `lope corpus verify {self._folder}`."
                )
        return [found[index] for index in ids]

    def _open_shard(self, view: str, number: int) -> Shard:
        record = self._shards[view, number]
        path = shard_path(self._folder, record.file)
        if record.file not in self._verified:
            refuse_changed(path, record)
            self._verified.add(record.file)
        return Shard(path)

    def _check_size(self, shard: ShardRecord) -> None:
        path = shard_path(self._folder, shard.file)
        size = path.stat().st_size if path.exists() else None
        if size != shard.bytes:
            what = "is missing" if size is None else f"has {size} bytes in place of {shard.bytes}"
            raise LopeError(
                f"{path} {what}; remove it if it is there, and run the same build again."
            )


def refuse_changed(path: Path, record: ShardRecord) -> None:
    """Refuse a shard that is not what was written, down to the last bit.

    Raises:
        LopeError: its hash is another, or it cannot be read.
    """
    try:
        is_whole = sha256_of(path) == record.sha256
    except OSError as error:
        raise LopeError(f"{path} cannot be read ({error.strerror}).") from None
    if not is_whole:
        raise LopeError(
            f"{path} is not what was built (its sha256 is not that of its record); run the same "
            "build again, which makes it anew."
        )
