"""The files that a call writes beside each other, and never over what is not its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.readers.files import FileRows


def check_outputs(
    out: Path, beside: Iterable[Path], summary: Path, keys: set[str], data: Iterable[str | None]
) -> None:
    """Refuse to write over what the call reads, or over files that no earlier call wrote.

    Args:
        out: What the user named, a `.jsonl` file.
        beside: What is written beside it; ``summary`` is one of them.
        summary: What shows that an earlier call wrote them all.
        keys: Of a summary.
        data: What the call reads; None: nothing.

    Raises:
        LopeError: such a file, or another suffix.
    """
    if out.suffix != ".jsonl":
        raise LopeError(f"--out {out}: write a .jsonl file.")
    inputs = set().union(*(_files_of(name) for name in data if name is not None))
    are_ours = _is_summary(summary, keys)
    for path in (out, *beside):
        if path.resolve() in inputs:
            raise LopeError(
                f"--out {out}: {path} would be written, and this call reads it; give another name."
            )
        if path.exists() and not are_ours:
            raise LopeError(
                f"--out {out}: {path} exists and no earlier call wrote it; remove it or give "
                "another name."
            )


def _is_summary(path: Path, keys: set[str]) -> bool:
    try:
        summary = read_json(path)
    except (LopeError, OSError):
        return False
    return isinstance(summary, dict) and keys <= summary.keys()


def _files_of(data: str) -> set[Path]:
    readers = find_rows(SourceConfig(path=data))
    return {rows.path.resolve() for rows in readers if isinstance(rows, FileRows)}
