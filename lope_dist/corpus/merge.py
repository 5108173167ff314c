"""Parts that nodes built -> one corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.files import whole_file
from lope_dist.corpus.build import finish, record_path, whole_shard
from lope_dist.corpus.manifest import (
    PLAN,
    Manifest,
    Plan,
    read_section,
    shard_path,
    write_section,
)
from lope_dist.corpus.plan import spans_of


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
    for other in others:
        if differences := _plan_of(other).fingerprint.differences(plan.fingerprint):
            raise LopeError(
                f"{other} and {into} are parts of different corpora ({'; '.join(differences)}); "
                "build all parts from one configuration."
            )
    for span in spans_of(plan.fingerprint):
        mine = whole_shard(into, span)
        for other in others:
            theirs = whole_shard(other, span)
            if theirs is None:
                continue
            if mine is not None and mine != theirs:
                raise LopeError(
                    f"{span.file} is in {into} and in {other} with different content, which the "
                    "same libraries on all nodes do not give; remove the wrong one and its .json."
                )
            if mine is None:
                _copy(shard_path(other, span.file), shard_path(into, span.file), theirs.sha256)
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
            raise LopeError(f"{source} is damaged: its hash is not its record's; build it again.")
