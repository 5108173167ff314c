"""What `lope compare` found, on the console."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lope_dist.report.tables import ABSENT


def print_comparison(found: dict[str, Any]) -> None:
    """Print the table, the notes, the recommendation and where the plot is."""
    seeds = len(found["seeds"])
    table = Table(title=f"Loss on held-out rows, nats a token ({seeds} seed{'s' * (seeds > 1)})")
    table.add_column("trained as", no_wrap=True)
    table.add_column("experts", no_wrap=True)
    for head in ("loss ± sd", "difference to LoRA, 95 % interval"):
        table.add_column(head, justify="right")
    for row in found["rows"]:
        loss = f"{row['loss']:.4f}" + ("" if row["sd"] is None else f" ± {row['sd']:.4f}")
        table.add_row(escape(row["label"]), row["experts"], loss, _difference(row["against_lora"]))
    console = Console()
    console.print(table)
    for line in [*found["notes"], found["recommendation"]["sentence"]]:
        console.print(line, markup=False, highlight=False)
    console.print(f"Plot: {found['plot']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Page: {found['page']}", markup=False, highlight=False, soft_wrap=True)


def _difference(effect: dict[str, Any] | None) -> str:
    if effect is None:
        return ABSENT
    text = f"{effect['mean']:+.4f}"
    if effect["ci95"] is None:
        return text
    low, high = effect["ci95"]
    return f"{text} [{low:+.4f}, {high:+.4f}]"
