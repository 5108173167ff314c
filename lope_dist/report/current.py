"""Which figures are of the adapter that a run has now; others are left out of tables, and told."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lope_dist.core.side_files import SideFile

BASE = "base"
_NAME = re.compile(r"(\d+)-.+?(?:-step-(\d+))?")


class _Description(TypedDict):
    sha256: str


_DESCRIPTION = SideFile("adapter.json", _Description)


def adapters(run_dir: Path) -> dict[str, str]:
    """Return checkpoint -> hash of its adapter, the newest first; of an export nothing."""
    names = {path.parent.name for path in run_dir.glob("checkpoints/*/adapter.json")}
    matches = sorted(filter(None, map(_NAME.fullmatch, names)), key=_order, reverse=True)
    read = {m[0]: _DESCRIPTION.read(run_dir / "checkpoints" / m[0]) for m in matches}
    return {name: value["sha256"] for name, value in read.items() if value is not None}


def newest_adapter(run_dir: Path) -> str | None:
    """Return the hash of the adapter in a run's newest checkpoint, None without one."""
    return next(iter(adapters(run_dir).values()), None)


def of_now(
    table: dict[str, Any], run_dir: Path, name: str, *, meant: str | None = None
) -> dict[str, Any]:
    """Return a table without rows of another adapter than the run's newest, which are told.

    A row `NAME@CHECKPOINT` is held against that checkpoint, if it is there. Rows of older versions,
    which do not say of which adapter they are, stay.

    Args:
        table: The content of `results.json`, or of a file of losses.
        run_dir: The run's folder.
        name: The file's.
        meant: The hash of an adapter of which rows are shown too: a run that trains goes on.

    Returns:
        The table, with the names of what went in `left_out`.
    """
    rows, known = table["rows"], adapters(run_dir)
    named = rows if isinstance(rows, dict) else {row["name"]: row for row in rows}
    gone = [
        row_name
        for row_name, row in named.items()
        if row.get("adapter_sha256") != meant and _is_of_another(row_name, row, known)
    ]
    if not gone:
        return table
    print(
        f"{run_dir / name}: {', '.join(gone)} left out, of another adapter than the checkpoint "
        f"{next(iter(known))}; measure again, or name the checkpoint meant with --checkpoint.",
        file=sys.stderr,
    )
    kept = {row_name: row for row_name, row in named.items() if row_name not in gone}
    return table | {"rows": kept if named is rows else list(kept.values()), "left_out": gone}


def _is_of_another(name: str, row: Mapping[str, Any], known: Mapping[str, str]) -> bool:
    of_row, (_, at, checkpoint) = row.get("adapter_sha256"), name.partition("@")
    now = known.get(checkpoint) if at else next(iter(known.values()), None)
    return name != BASE and None not in (of_row, now) and of_row != now


def _order(match: re.Match[str]) -> tuple[int, float]:
    return int(match[1]), math.inf if match[2] is None else int(match[2])
