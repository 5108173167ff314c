"""Examples -> shards of tokens on disk, by any number of processes and nodes; parts -> a corpus.

A shard is a fixed range of examples of one view, so whoever makes it makes the same bytes,
without a word to the others. A shard with its record beside it is done; the rest is what
an interrupted build has left to do.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lope_dist.config.noise import NoiseConfig
from lope_dist.core.bars import counted
from lope_dist.core.errors import LopeError, NewerFormat
from lope_dist.core.files import remove_torn, whole_file
from lope_dist.core.locks import file_lock
from lope_dist.core.workers import in_order
from lope_dist.corpus.built.corpus import refuse_changed
from lope_dist.corpus.built.manifest import (
    MANIFEST,
    PLAN,
    SHARDS,
    Manifest,
    Plan,
    ShardRecord,
    Span,
    make_manifest,
    read_section,
    shard_path,
    spans_of,
    write_section,
)
from lope_dist.corpus.built.shards import ROWS_OF_A_BATCH, write_shard
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import FreshTokens, Row

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What the shards of a corpus are made of."""

    plan: Plan
    source: ExampleSource
    form: Form
    noise: NoiseConfig
    seed: int

    @property
    def tokens(self) -> FreshTokens:
        """What makes their rows."""
        has_marks = self.plan.fingerprint.has_marks
        return FreshTokens(self.source, self.form, self.noise, self.seed, has_marks)


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
            being built already, an example that cannot be encoded, a template in which marks are
            lost, or a worker that died.
    """
    assert 0 <= node_rank < num_nodes
    if recipe.tokens.has_marks:
        recipe.tokens.check_marks(recipe.plan.fingerprint.views[-1])
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        claim(recipe.plan, folder)
        with _alone(folder, node_rank, num_nodes):
            spans = spans_of(recipe.plan.fingerprint)
            mine = spans[node_rank::num_nodes]
            todo = [span for span in mine if undamaged_shard(folder, span) is None]
            for span in todo:
                remove_torn(shard_path(folder, span.file))
            _make_all(recipe, folder, todo, workers, progress)
            manifest = finish(recipe.plan, folder) if num_nodes == 1 else None
    except OSError as error:
        raise LopeError(f"{folder} cannot be written ({error.strerror or error}).") from None
    return Built(len(todo), len(mine) - len(todo), manifest)


def claim(plan: Plan, folder: Path) -> None:
    """Write the plan into the folder, or check that the plan there is of the same corpus.

    Raises:
        LopeError: it is another's; tells every difference.
    """
    if not (folder / PLAN).exists():
        write_section(folder / PLAN, plan)
        return
    built = read_section(folder / PLAN, Plan)
    if differences := built.fingerprint.differences(plan.fingerprint):
        raise LopeError(
            f"{folder} holds a corpus that was built with other settings "
            f"({'; '.join(differences)}); choose another folder, or use the settings that it was "
            "built with."
        )


def whole_shard(folder: Path, span: Span) -> ShardRecord | None:
    """Return a shard's record if its file has the recorded content; None if it is absent.

    Raises:
        LopeError: it is damaged, or its record is.
    """
    path = shard_path(folder, span.file)
    if not (record_path(path).exists() and path.exists()):
        return None
    record = read_section(record_path(path), ShardRecord)
    refuse_changed(path, record)
    return record


def undamaged_shard(folder: Path, span: Span) -> ShardRecord | None:
    """Return the record of a complete shard, or None. A damaged one is reported."""
    return _or_made_anew(lambda: whole_shard(folder, span))


def _or_made_anew(read: Callable[[], T | None]) -> T | None:
    """Return what is read; None if it is damaged, which is reported."""
    try:
        return read()
    except NewerFormat:
        raise
    except LopeError as error:
        print(f"Made anew: {error}", file=sys.stderr)
        return None


def finish(plan: Plan, folder: Path) -> Manifest:
    """Write the manifest of a corpus all of whose shards are there.

    Raises:
        LopeError: shards are missing; names them.
    """
    spans = spans_of(plan.fingerprint)
    records = [(span, undamaged_shard(folder, span)) for span in spans]
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
    if not path.exists() or _or_made_anew(lambda: read_section(path, Manifest)) != manifest:
        write_section(path, manifest)
    return manifest


def make_shard(recipe: Recipe, folder: Path, span: Span) -> ShardRecord:
    """Make one shard and its record, in this order."""
    fingerprint = recipe.plan.fingerprint
    path = shard_path(folder, span.file)
    counts, written = write_shard(
        path,
        _batches(recipe, span),
        is_encoder_decoder=fingerprint.model == "encoder-decoder",
        has_marks=fingerprint.has_marks,
    )
    record = ShardRecord(
        file=span.file,
        view=span.view,
        first=span.first,
        **written._asdict(),
        **vars(counts),
    )
    write_section(record_path(path), record)
    return record


def _batches(recipe: Recipe, span: Span) -> Iterator[list[Row]]:
    tokens = recipe.tokens
    for first in range(span.first, span.end, ROWS_OF_A_BATCH):
        yield tokens.rows(span.view, range(first, min(first + ROWS_OF_A_BATCH, span.end)))


def _make_all(
    recipe: Recipe, folder: Path, todo: Sequence[Span], workers: int, progress: bool
) -> None:
    made = in_order(
        lambda span: make_shard(recipe, folder, span),
        todo,
        min(workers, len(todo)) if workers > 1 and len(todo) > 1 else 0,
        what=f"the build of {folder}",
        remedy="the same command goes on where it stopped; try fewer --workers",
    )
    for _ in counted(made, "Shards", "shards", total=len(todo), is_shown=progress):
        pass


@contextmanager
def _alone(folder: Path, node_rank: int, num_nodes: int) -> Iterator[None]:
    with ExitStack() as held:
        try:
            lock = file_lock(folder / f".node-{node_rank}-of-{num_nodes}.lock", waits=False)
            held.enter_context(lock)
        except BlockingIOError:
            raise LopeError(
                f"{folder}: another process builds the part of node {node_rank} of {num_nodes}; "
                "wait for it, or give each node its own --node-rank."
            ) from None
        yield


def record_path(shard: Path) -> Path:
    """Return where the record of a shard is."""
    return shard.with_suffix(".json")


def merge(folders: Sequence[Path]) -> Manifest:
    """Join the parts into the first folder and write its manifest.

    Nodes that share a file system build into one folder: it is given alone. Shards of other
    folders are copied, and their hashes checked on the way; those folders stay as they are.

    Raises:
        LopeError: a folder without a plan, parts of different corpora, a shard that two parts
            have with different content, a damaged one, or missing ones.
    """
    into, *others = folders
    plan = _plan_of(into)
    for folder in others:
        if differences := _plan_of(folder).fingerprint.differences(plan.fingerprint):
            raise LopeError(
                f"{folder} and {into} are parts of different corpora ({'; '.join(differences)}); "
                "build all parts from one configuration."
            )
    for span in spans_of(plan.fingerprint):
        mine = whole_shard(into, span)
        for folder in others:
            theirs = whole_shard(folder, span)
            if theirs is None:
                continue
            if mine is not None and mine != theirs:
                raise LopeError(
                    f"{span.file} is in {into} and in {folder} with different content, which the "
                    "same libraries on all nodes do not give; remove the wrong one and its .json."
                )
            if mine is None:
                _copy(shard_path(folder, span.file), shard_path(into, span.file), theirs.sha256)
                write_section(record_path(shard_path(into, span.file)), theirs)
                mine = theirs
    return finish(plan, into)


def _plan_of(folder: Path) -> Plan:
    if not (folder / PLAN).exists():
        raise LopeError(f"{folder} holds no part of a corpus; give folders that a build wrote to.")
    return read_section(folder / PLAN, Plan)


def _copy(source: Path, target: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reader, whole_file(target) as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
        if digest.hexdigest() != sha256:
            raise LopeError(
                f"{source} is damaged: its hash differs from its record; build it again."
            )
