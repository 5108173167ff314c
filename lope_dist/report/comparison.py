"""What `lope compare` found, on the console."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from lope_dist.report.tables import ABSENT, console_table, format_interval


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print the table, the notes, the recommendation and where the plot is."""
    seeds = len(comparison["seeds"])
    title = f"Loss on held-out rows, nats a token ({seeds} seed{'s' * (seeds > 1)})"
    head = ("trained as", "experts", "loss ± sd", "difference to LoRA, 95 % interval")
    table = console_table(title, head, num_names=2)
    for row in comparison["rows"]:
        loss = f"{row['loss']:.4f}" + ("" if row["sd"] is None else f" ± {row['sd']:.4f}")
        effect = row["against_lora"]
        difference = format_interval(effect["mean"], effect["ci95"]) if effect else ABSENT
        table.add_row(escape(row["label"]), row["experts"], loss, difference)
    console = Console()
    console.print(table)
    for line in [*comparison["notes"], comparison["recommendation"]["sentence"]]:
        console.print(line, markup=False, highlight=False)
    console.print(f"Plot: {comparison['plot']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Page: {comparison['page']}", markup=False, highlight=False, soft_wrap=True)
