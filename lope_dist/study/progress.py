"""A bar over a study's steps, and a line for each cell that ends."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from lope_dist.report.tables import format_duration
from lope_dist.study.steps import Step


class Progress:
    """What is told while a study runs, on stderr."""

    def __init__(self, num_steps: int) -> None:
        self._shown = ""
        self._bar = tqdm(
            total=num_steps,
            desc="Study",
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # a log file wants few lines
        )

    def show(self, running: list[tuple[str, str]]) -> None:
        """Show what runs, as (cell, step)."""
        text = ", ".join(f"{cell} {step}" for cell, step in running)
        if text != self._shown:
            self._shown = text
            self._bar.set_postfix_str(text, refresh=sys.stderr.isatty())

    def advance(self) -> None:
        """Count a step that ended well."""
        self._bar.update(1)

    def tell_done(self, cell: str, seconds: dict[str, float]) -> None:
        """Print a cell's line."""
        parts = ", ".join(f"{step} {format_duration(s)}" for step, s in seconds.items())
        self._print(f"{cell}: done ({parts})")

    def tell_failed(self, cell: str, step: Step, status: int, lines: list[str]) -> None:
        """Print a cell's line and the end of its log."""
        head = f"{cell}: {step.name} failed with status {status}; {step.log} ends with"
        self._print("\n    ".join([head, *lines]))

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _print(self, text: str) -> None:
        self._bar.write(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)
