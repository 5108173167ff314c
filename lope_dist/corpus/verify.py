"""Whether a built corpus is what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import sha256_of
from lope_dist.corpus.manifest import SHARDS, Manifest, ShardRecord, read_manifest, shard_path
from lope_dist.corpus.plan import spans_of


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
            f"{folder} is not what its manifest says: {'; '.join(faults[:10])}{more}. Remove bad "
            "shards with their .json and run the same build again."
        )
    return manifest


def _faults(folder: Path, manifest: Manifest, progress: bool) -> Iterator[str]:
    spans = {span.file: span for span in spans_of(manifest.fingerprint)}
    listed = [shard.file for shard in manifest.shards]
    if sorted(listed) != sorted(spans):
        odd = sorted(set(listed) ^ set(spans)) or [f for f in spans if listed.count(f) > 1]
        yield f"the manifest does not list each shard once ({', '.join(odd[:5])})"
    for shard in tqdm(manifest.shards, desc="Shards", unit="shard", disable=not progress):
        span = spans.get(shard.file)
        place = (shard.view, shard.first, shard.first + shard.examples)
        if span is not None and place != (span.view, span.first, span.end):
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
    return None if digest == shard.sha256 else "has another content (sha256)"
