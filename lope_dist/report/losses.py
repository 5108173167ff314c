"""Held-out losses as a console table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lope_dist.report.tables import ABSENT, model_label


def print_losses(table: dict[str, Any]) -> None:
    """Print what `lope loss` returns, a line for each row."""
    console = Table(title="Held-out loss, nats per response token ± standard error")
    console.add_column("model", no_wrap=True)
    for head in ("loss", "tokens", "examples"):
        console.add_column(head, justify="right")
    for name, row in table["rows"].items():
        cells = (format_loss(row), f"{row['num_tokens']:,}", f"{row['num_rows']:,}")
        console.add_row(escape(model_label(name)), *cells)
    Console().print(console)


def format_loss(row: dict[str, Any]) -> str:
    """Return ``"1.2345 ± 0.0123"``, or a dash."""
    if row["loss_per_token"] is None:
        return ABSENT
    loss = f"{row['loss_per_token']:.4f}"
    return loss if row["stderr"] is None else f"{loss} ± {row['stderr']:.4f}"
