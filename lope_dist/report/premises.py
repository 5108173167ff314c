"""What a run stands on, as the first section of its report."""

from __future__ import annotations

from typing import Any

from lope_dist.report.page import table
from lope_dist.report.read import RunFiles

_COUNTS = {
    "rows": "rows",
    "examples": "examples",
    "validation": "validation examples",
    "cut": "cut at data.max_length",
    "without_target": "without a target",
    "tokens": "tokens",
    "target_tokens": "target tokens",
}


def premises_section(run: RunFiles) -> str:
    """Return the table that the run printed before its first step; nothing of an older run."""
    starts = (run.manifest or {}).get("starts") or []
    premises_of_starts = [
        start["premises"] for start in starts if isinstance(start.get("premises"), dict)
    ]
    if not premises_of_starts:
        return ""
    premises = premises_of_starts[-1]
    rows = [[key, value] for key, value in premises.items() if isinstance(value, str)]
    data = premises.get("data")
    if isinstance(data, dict):
        rows.append(["data", _counts(data)])
        if isinstance(data.get("steps"), dict):
            rows.append(["steps", ", ".join(f"{k} {v:,}" for k, v in data["steps"].items())])
    if "batch" not in premises:  # of a run of an older version
        rows.append(["batch", _batch(run, starts[-1])])
    return table(["", ""], [row for row in rows if row[1]], is_text=True)


def _counts(data: dict[str, Any]) -> str:
    bad = data.get("bad_rows")
    parts = [f"{data[key]:,} {name}" for key, name in _COUNTS.items() if _is_count(data.get(key))]
    if isinstance(bad, dict) and (num_bad := sum(v for v in bad.values() if _is_count(v))):
        parts.insert(1, f"{num_bad:,} bad ones left out")
    return ", ".join(parts)


def _batch(run: RunFiles, start: dict[str, Any]) -> str:
    train = run.settings.get("train") or {}
    if "global_batch" not in train:
        return ""
    text = f"{train['global_batch']} examples"
    if "micro_batch" in train:
        text += f", {train['micro_batch']} rows a forward pass"
    ranks = start.get("ranks")
    return f"{text}, {len(ranks)} ranks" if isinstance(ranks, list) else text


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
