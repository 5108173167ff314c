"""`lope noise`: which operations there are, and the noise of one's own data."""
from __future__ import annotations

import typer

app = typer.Typer()
