"""Hashes that tell whether what two hosts, or two times, have is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_BLOCK, _NUM_BLOCKS = 1 << 20, 16


def fingerprint(paths: Iterable[str | Path]) -> str | None:
    """Return a hash over files' names, sizes and samples of their bytes; None if one is absent.

    A folder stands for all files in it. Samples: the whole of a file up to 16 MiB, else 16
    blocks of 1 MiB over its length, so that weights of any size take seconds.
    """
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if not file.is_file():
                return None
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as source:
                for start, stop in sample_ranges(file.stat().st_size, _NUM_BLOCKS, _BLOCK):
                    source.seek(start)
                    digest.update(source.read(stop - start))
    return digest.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the hash of all of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(tree: Any) -> str:
    """Return a hash of what JSON makes of a tree; what it cannot hold counts as its text."""
    text = json.dumps(tree, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """Return a hash of all that decides which tokens a text becomes; not of the chat template.

    Args:
        tokenizer: A `transformers.PreTrainedTokenizerBase`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    body = {"vocab": tokenizer.get_vocab()} if backend is None else json.loads(backend.to_str())
    for setting in ("padding", "truncation"):  # of its last call
        body.pop(setting, None)
    special = tokenizer.special_tokens_map.items()
    body["special"] = {name: str(value) for name, value in sorted(special)}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def sample_ranges(size: int, num_samples: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield byte ranges, evenly spaced, first and last included; all of what is small."""
    if size <= num_samples * length:
        yield 0, size
        return
    for index in range(num_samples):
        start = (size - length) * index // (num_samples - 1)
        yield start, start + length
