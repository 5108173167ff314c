"""Examples -> shards of tokens on disk, by any number of processes and nodes, and again.

A shard is a fixed range of examples of one view, so whoever makes it makes the same bytes,
without a word to the others. A shard with its record beside it is done; the rest is what
an interrupted build has left to do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lope_dist.config.noise import NoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import remove_torn
from lope_dist.core.workers import forked_pool
from lope_dist.corpus.built import refuse_changed
from lope_dist.corpus.manifest import (
    MANIFEST,
    PLAN,
    SHARDS,
    Manifest,
    Plan,
    ShardRecord,
    make_manifest,
    read_section,
    shard_path,
    write_section,
)
from lope_dist.corpus.plan import Span, spans_of
from lope_dist.corpus.prompts import Form
from lope_dist.corpus.records import ExampleSource
from lope_dist.corpus.shards import ROWS_OF_A_BATCH, Row, write_shard
from lope_dist.corpus.tokens import encode
from lope_dist.corpus.views import stage_views


@dataclass(frozen=True)
class Recipe:
    """What the shards of a corpus are made of."""

    plan: Plan
    source: ExampleSource
    form: Form
    noise: NoiseConfig
    seed: int


@dataclass(frozen=True)
class Built:
    """What a build did."""

    made: int
    """Shards that it made."""
    found: int
    """Shards of its part that were there."""
    manifest: Manifest | None
    """The whole corpus; None as long as parts of other nodes are to be merged."""


def build(
    recipe: Recipe,
    folder: Path,
    *,
    node_rank: int = 0,
    num_nodes: int = 1,
    workers: int = 1,
    progress: bool = True,
) -> Built:
    """Make what is missing of this node's shards; with one node, finish the corpus.

    Raises:
        LopeError: the folder holds another corpus or cannot be written, this node's part is
            being built already, an example that cannot be encoded, or a worker that died.
    """
    assert 0 <= node_rank < num_nodes
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        claim(recipe.plan, folder)
        with _alone(folder, node_rank, num_nodes):
            spans = spans_of(recipe.plan.fingerprint)
            mine = spans[node_rank::num_nodes]
            todo = [span for span in mine if done(folder, span) is None]
            for span in todo:
                remove_torn(shard_path(folder, span.file))
            _make_all(recipe, folder, todo, workers, progress)
            manifest = finish(recipe.plan, folder) if num_nodes == 1 else None
    except OSError as error:
        raise LopeError(f"{folder} cannot be written ({error.strerror or error}).") from None
    return Built(len(todo), len(mine) - len(todo), manifest)


def claim(plan: Plan, folder: Path) -> None:
    """Make the folder this corpus's, or find that it is.

    Raises:
        LopeError: it is another's; tells every difference.
    """
    if not (folder / PLAN).exists():
        write_section(folder / PLAN, plan)
        return
    built = read_section(folder / PLAN, Plan)
    if differences := built.fingerprint.differences(plan.fingerprint):
        raise LopeError(
            f"{folder} holds a corpus made from something else ({'; '.join(differences)}); "
            "take another folder, or go back to the settings it was built with."
        )


def whole_shard(folder: Path, span: Span) -> ShardRecord | None:
    """Return the record of a shard whose content is its record's, or None if it is not there.

    Raises:
        LopeError: it is damaged, or its record is.
    """
    path = shard_path(folder, span.file)
    if not (record_path(path).exists() and path.exists()):
        return None
    record = read_section(record_path(path), ShardRecord)
    refuse_changed(path, record)
    return record


def done(folder: Path, span: Span) -> ShardRecord | None:
    """Return the record of a shard that is whole, or None; one that is damaged is told."""
    try:
        return whole_shard(folder, span)
    except LopeError as damage:
        print(f"Made anew: {damage}", file=sys.stderr)
        return None


def finish(plan: Plan, folder: Path) -> Manifest:
    """Write the manifest of a corpus all of whose shards are there.

    Raises:
        LopeError: shards are missing; names them.
    """
    spans = spans_of(plan.fingerprint)
    records = [(span, done(folder, span)) for span in spans]
    missing = [span.file for span, record in records if record is None]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise LopeError(
            f"{folder}: {len(missing)} of {len(spans)} shards are missing: "
            f"{', '.join(missing[:5])}{more}; build the parts of all nodes first (shard number i "
            "of plan.json's order is made by node i modulo --num-nodes)."
        )
    manifest = make_manifest(plan, [record for _, record in records if record is not None])
    path = folder / MANIFEST
    if not path.exists() or read_section(path, Manifest) != manifest:
        write_section(path, manifest)
    return manifest


def make_shard(recipe: Recipe, folder: Path, span: Span) -> ShardRecord:
    """Make one shard and its record, in this order."""
    fingerprint = recipe.plan.fingerprint
    path = shard_path(folder, span.file)
    counts, sha256, size = write_shard(
        path,
        _batches(recipe, span),
        is_encoder_decoder=fingerprint.model == "encoder-decoder",
        has_marks=fingerprint.has_marks,
    )
    record = ShardRecord(
        file=span.file, view=span.view, first=span.first, bytes=size, sha256=sha256, **vars(counts)
    )
    write_section(record_path(path), record)
    return record


def rows_of(recipe: Recipe, first: int, end: int, *, injects_text: bool, epoch: int) -> list[Row]:
    """Return a range of examples as one view has them."""
    has_marks = recipe.plan.fingerprint.has_marks
    views = stage_views(
        list(recipe.source.read(first, end)),
        recipe.source,
        recipe.noise,
        injects_text=injects_text,
        seed=recipe.seed,
        epoch=epoch,
        has_marks=has_marks,
    )
    tokens = encode(
        [view.example for view in views],
        recipe.form,
        [view.marks for view in views] if has_marks else None,
    )
    return [Row(t, view.hits) for t, view in zip(tokens, views, strict=True)]


def _batches(recipe: Recipe, span: Span) -> Iterator[list[Row]]:
    for first in range(span.first, span.end, ROWS_OF_A_BATCH):
        end = min(first + ROWS_OF_A_BATCH, span.end)
        yield rows_of(recipe, first, end, injects_text=span.injects_text, epoch=span.epoch)


def _make_all(
    recipe: Recipe, folder: Path, todo: Sequence[Span], workers: int, progress: bool
) -> None:
    if workers <= 1 or len(todo) <= 1:
        for span in tqdm(todo, desc="Shards", unit="shard", disable=not progress):
            make_shard(recipe, folder, span)
        return
    pool = forked_pool(min(workers, len(todo)), _adopt, recipe, folder)
    pending: set[Future[Any]] = set()
    try:
        pending = {pool.submit(_make_in_worker, span) for span in todo}
        with tqdm(total=len(todo), desc="Shards", unit="shard", disable=not progress) as bar:
            while pending:
                ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                    bar.update()
    except BrokenProcessPool:
        raise LopeError(
            f"A worker died while building {folder} (killed, perhaps for want of memory); "
            "the same command goes on where it stopped; try fewer --workers."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_inherited: tuple[Recipe, Path] | None = None  # of a worker process


def _adopt(recipe: Recipe, folder: Path) -> None:
    global _inherited
    _inherited = (recipe, folder)


def _make_in_worker(span: Span) -> None:
    assert _inherited is not None
    make_shard(*_inherited, span)


@contextmanager
def _alone(folder: Path, node_rank: int, num_nodes: int) -> Iterator[None]:
    lock = FileLock(folder / f".node-{node_rank}-of-{num_nodes}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LopeError(
            f"{folder}: another process builds the part of node {node_rank} of {num_nodes}; wait "
            "for it, or give each node its own --node-rank."
        ) from None
    try:
        yield
    finally:
        lock.release()


def record_path(shard: Path) -> Path:
    """Return where the record of a shard is."""
    return shard.with_suffix(".json")
