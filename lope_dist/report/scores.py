"""The summary of `lope score` as a console table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from lope_dist.report.score_plots import by_area


def print_scores(summary: dict[str, Any]) -> None:
    """Print what was ranked and, where the truth is known, a line for each score."""
    console = Console()
    unscored = f", {summary['num_unscored']} without a score" if summary["num_unscored"] else ""
    console.print(f"{summary['num_rows']:,} examples ranked by {summary['by']}{unscored}")
    found = summary.get("detection")
    if found is None or not found["groups"]:
        return
    groups = found["groups"]
    title = f"AUROC: {found['num_noisy']:,} noisy, {found['num_clean']:,} clean examples"
    table = Table(title=title, caption="noisy examples of each column in brackets")
    table.add_column("score", no_wrap=True)
    for name, group in groups.items():
        head = name.removeprefix("operation: ").removeprefix("field: ")
        table.add_column(f"{head}\n({group['num_noisy']})", justify="right")
    for score in by_area(found):
        cells = (f"{group['auroc'][score]:.3f}" for group in groups.values())
        table.add_row(f"[bold]{score}[/bold]" if score == summary["by"] else score, *cells)
    console.print(table)
    at = found["precision_at"][summary["by"]]
    parts = ", ".join(f"{100 * value:.0f} % of the first {k}" for k, value in at.items())
    console.print(f"Noisy by {summary['by']}: {parts}")
