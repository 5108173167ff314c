"""The page of `lope clean`: what went, how well that agrees with the truth, and the worst rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lope_dist.core.files import write_atomic
from lope_dist.report.page import template


def write_cleaning_page(summary: dict[str, Any], path: Path) -> None:
    """Write the page of a summary of `lope clean`, one file that needs no network."""
    dropped = Path(summary["cleaned"]).with_suffix(".dropped.jsonl").name
    write_atomic(path, template("cleaning.html").render(summary, dropped_file=dropped))


def cleaning_lines(summary: dict[str, Any]) -> list[str]:
    """Return what a console shows of a summary."""
    parts = ", ".join(f"{count:,} by {reason}" for reason, count in summary["dropped"].items())
    lines = [
        f"{summary['num_kept']:,} of {summary['num_rows']:,} rows stay; dropped: {parts or 'none'}"
    ]
    if num_unreadable := summary.get("num_unreadable"):
        lines.append(f"{num_unreadable:,} rows cannot be read, and are in no file")
    if "noisy_dropped" in summary:
        counts = summary["noisy_dropped"]
        lines.append(
            f"{counts['both']:,} of the {counts['of_dropped']:,} dropped examples are noisy, of "
            f"{counts['of_noisy']:,} noisy ones in all"
        )
    areas = (summary.get("detection", {}).get("groups") or {}).get("all", {}).get("auroc", {})
    if areas:
        best = sorted(areas.items(), key=lambda pair: -pair[1])
        lines.append("AUROC: " + ", ".join(f"{name} {area:.3f}" for name, area in best))
    return lines
