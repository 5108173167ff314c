"""The summary of `lope score` as a console table."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from lope_dist.report.score_plots import shown_scores
from lope_dist.report.tables import console_table


def print_scores(summary: dict[str, Any]) -> None:
    """Print what was ranked and, where the truth is known, the best scores in each group."""
    console = Console()
    unscored = f", {summary['num_unscored']} without a score" if summary["num_unscored"] else ""
    console.print(f"{summary['num_rows']:,} examples ranked by {summary['by']}{unscored}")
    detection = summary.get("detection")
    if detection is None or not detection["groups"]:
        return
    groups = detection["groups"]
    title = f"AUROC: {detection['num_noisy']:,} noisy, {detection['num_clean']:,} clean examples"
    shown = shown_scores(detection, summary["by"])
    head = [name.replace("_", "_\n") for name in ("number", *shown)]  # or they would be cut
    caption = "all scores are in the summary's JSON"
    table = console_table(title, ["noisy examples", *head], caption=caption)
    for name, group in groups.items():
        cells = (f"{group['auroc'][score]:.3f}" for score in shown)
        table.add_row(name, f"{group['num_noisy']:,}", *cells)
    console.print(table)
    at = detection["precision_at"][summary["by"]]
    parts = ", ".join(f"{100 * value:.0f} % of the first {k}" for k, value in at.items())
    console.print(f"Noisy by {summary['by']}: {parts}")
