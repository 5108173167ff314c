"""A built corpus: access to its rows, whether a run may use it, and whether it is undamaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from lope_dist.core import blocks
from lope_dist.core.bars import counted
from lope_dist.core.blocks import all_blocks, hash_blocks
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import sha256_of
from lope_dist.corpus.built.manifest import (
    SHARDS,
    Fingerprint,
    Manifest,
    ShardRecord,
    read_manifest,
    shard_path,
    spans_of,
)
from lope_dist.corpus.built.shards import Shard, not_as_built
from lope_dist.corpus.tokens.views import Row

_OPEN_SHARDS = 128  # a memory map holds a file descriptor
_SETTINGS = {
    "source": "the examples of data.path",
    "num_examples": "the number of examples",
    "tokenizer": "the tokenizer of model.name_or_path",
    "template": "data.template, its text, its date or its arguments",
    "max_length": "data.max_length",
    "model": "the kind of model",
    "seed": "seed",
    "data_noise": "noise.data",
    "text_noise": "noise.text",
}


class BuiltCorpus:
    """Random access to the rows of every view; only what is asked for is read.

    A shard is held against the hashes of its blocks when it is first asked for, a large one where
    it is read.

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
        self._unchecked = {s.file: all_blocks(s.blocks) for s in self.manifest.shards}
        self._open = lru_cache(_OPEN_SHARDS)(self._open_shard)

    def rows(self, view: str, ids: Sequence[int]) -> list[Row]:
        """Return examples of a view, in the order asked for.

        Raises:
            LopeError: a damaged shard.
        """
        by_shard: dict[int, list[int]] = {}
        for index in ids:
            by_shard.setdefault(index // self._size, []).append(index)
        rows_by_id: dict[int, Row] = {}
        for number, ids_of_shard in by_shard.items():
            rows = self._open(view, number).rows([index % self._size for index in ids_of_shard])
            rows_by_id.update(zip(ids_of_shard, rows, strict=True))
        for index, row in rows_by_id.items():
            if row.tokens.example_id != index:
                raise LopeError(
                    f"{self._folder}: example {row.tokens.example_id} of view '{view}' stands in "
                    f"the place of example {index}; run `lope corpus verify {self._folder}`."
                )
        return [rows_by_id[index] for index in ids]

    def _open_shard(self, view: str, number: int) -> Shard:
        record = self._shards[view, number]
        path = shard_path(self._folder, record.file)
        if not record.blocks and record.file not in self._verified:
            refuse_changed(path, record)
            self._verified.add(record.file)
        return Shard(path, record.blocks, self._unchecked[record.file])

    def _check_size(self, shard: ShardRecord) -> None:
        path = shard_path(self._folder, shard.file)
        size = path.stat().st_size if path.exists() else None
        if size != shard.bytes:
            problem = (
                "is missing" if size is None else f"has {size} bytes in place of {shard.bytes}"
            )
            raise LopeError(
                f"{path} {problem}; remove it if it is there, and run the same build again."
            )


def refuse_changed(path: Path, record: ShardRecord) -> None:
    """Refuse a shard that is not what was written, down to the last bit.

    Raises:
        LopeError: its hash is another, or it cannot be read.
    """
    try:
        if sha256_of(path) == record.sha256:
            return
        hashes = hash_blocks(path)
    except OSError as error:
        raise LopeError(f"{path} cannot be read ({error.strerror}).") from None
    raise not_as_built(path, _where(hashes, record))


def _where(hashes: Sequence[str], record: ShardRecord) -> str:
    """Return which blocks of a shard differ from its record."""
    if len(hashes) != len(record.blocks):  # of another size, or of before there were blocks
        return "its sha256 is not that of its record"
    wrong = [
        i for i, pair in enumerate(zip(hashes, record.blocks, strict=True), 1) if len({*pair}) > 1
    ]
    first = ", ".join(map(str, wrong[:5]))
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return f"block {first}{more} of {len(hashes)}, of {blocks.BLOCK} bytes each"


def open_built(folder: str, needed: Fingerprint) -> BuiltCorpus:
    """Open `data.corpus` for a run.

    Raises:
        LopeError: no finished corpus there, one made from something else than the run has, or
            one without the marks that ``needed`` has; tells what, and how to mend it.
    """
    corpus = BuiltCorpus(Path(folder))
    built = corpus.manifest.fingerprint
    mine, theirs = needed.model_dump(mode="json"), built.model_dump(mode="json")
    differences = [
        f"{name} ({theirs[part]!r} there, {mine[part]!r} here)"
        for part, name in _SETTINGS.items()
        if mine[part] is not None and mine[part] != theirs[part]
    ]
    # Data noise changes the clean view too, so a corpus with it never serves a run without.
    if mine["data_noise"] is None and theirs["data_noise"] is not None:
        differences.append("noise.data (there is some there, none here)")
    absent = [view for view in needed.views if view not in built.views]
    if absent and not differences:
        differences.append(f"the epochs with text noise (the view {absent[0]} is not there)")
    if differences:
        raise LopeError(
            f"data.corpus = {folder!r} was built for another run; different: "
            f"{'; '.join(differences)}. Build one for this run with `lope corpus build`, take the "
            "corpus's settings, or leave data.corpus out."
        )
    if needed.has_marks and not built.has_marks:
        raise LopeError(
            f"data.corpus = {folder!r} has no marks of the tokens that noise changed, and a "
            "stage's loss_on or gradient_routing needs them; build one with "
            "marks, in another folder, with `lope corpus build CONFIG --out DIR` and this "
            "configuration, or leave data.corpus out."
        )
    return corpus


def verify(folder: Path, *, progress: bool = True) -> Manifest:
    """Hash every shard and compare the list with the folder; return the manifest.

    Raises:
        LopeError: no corpus, or a wrong one; names every shard at fault.
    """
    manifest = read_manifest(folder)
    faults = list(_faults(folder, manifest, progress))
    if faults:
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise LopeError(
            f"{folder} differs from its manifest: {'; '.join(faults[:10])}{more}. Remove bad "
            "shards with their .json and run the same build again."
        )
    return manifest


def _faults(folder: Path, manifest: Manifest, progress: bool) -> Iterator[str]:
    spans = {span.file: span for span in spans_of(manifest.fingerprint)}
    listed = [shard.file for shard in manifest.shards]
    if sorted(listed) != sorted(spans):
        odd = sorted(set(listed) ^ set(spans)) or [f for f in spans if listed.count(f) > 1]
        yield f"the manifest does not list each shard once ({', '.join(odd[:5])})"
    for shard in counted(manifest.shards, "Shards", "shards", is_shown=progress):
        span = spans.get(shard.file)
        listed_range = (shard.view, shard.first, shard.first + shard.examples)
        if span is not None and listed_range != (span.view, span.first, span.end):
            yield f"{shard.file} is listed with other examples than its name says"
        if fault := _fault_of(shard_path(folder, shard.file), shard):
            yield f"{shard.file} {fault}"
    for path in sorted((folder / SHARDS).glob("*.arrow")):
        if path.name not in listed:
            yield f"{path.name} is in the folder and not in the manifest"


def _fault_of(path: Path, shard: ShardRecord) -> str | None:
    try:
        digest = sha256_of(path)
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
    if digest == shard.sha256:
        return None
    return f"has another content ({_where(hash_blocks(path), shard)})"
