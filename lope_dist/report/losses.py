"""Held-out losses as a console table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from lope_dist.report.tables import ABSENT, console_table


def print_losses(table: dict[str, Any]) -> None:
    """Print what `lope loss` returns, a line for each row."""
    title = "Held-out loss, nats per response token ± standard error"
    console = console_table(title, ["model", "loss", "tokens", "examples"])
    for name, row in table["rows"].items():
        cells = (format_loss(row), f"{row['num_tokens']:,}", f"{row['num_rows']:,}")
        console.add_row(escape(name), *cells)
    Console().print(console)


def format_loss(row: dict[str, Any]) -> str:
    """Return a row of `losses/*.json` as ``"1.2345 ± 0.0123"``, or a dash."""
    if row.get("loss_per_token") is None:
        return ABSENT
    loss = f"{row['loss_per_token']:.4f}"
    return loss if row.get("stderr") is None else f"{loss} ± {row['stderr']:.4f}"


def print_scales(chosen: dict[str, Any]) -> None:
    """Print what `lope scale` returns: a column of losses for each row, the least in bold."""
    rows = chosen["rows"]
    title = f"Held-out loss by scale, {chosen['num_rows']:,} examples"
    table = console_table(title, ["scale", *map(escape, rows)], num_names=0)
    curves = {word: {point[0]: point for point in row["curve"]} for word, row in rows.items()}
    for scale in sorted({scale for curve in curves.values() for scale in curve}):
        cells = []
        for word, curve in curves.items():
            _, loss, stderr = curve[scale]
            cell = format_loss({"loss_per_token": loss, "stderr": stderr})
            cells.append(f"[bold]{cell}[/bold]" if scale == rows[word]["scale"] else cell)
        table.add_row("0 (base model)" if scale == 0 else f"{scale:g}", *cells)
    console = Console()
    console.print(table)
    for word, row in rows.items():
        edge = "; the least loss may lie outside the grid" if row["at_edge"] else ""
        console.print(f"{word}: --experts {row['row']}{edge}", markup=False)
    console.print("Do not report results on these rows: the scale was chosen on them.")
