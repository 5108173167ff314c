"""A bar over a study's steps, and a line for each cell that ends."""

from __future__ import annotations

import time

from lope_dist.core.bars import bar
from lope_dist.core.console import tell
from lope_dist.report.tables import format_duration
from lope_dist.study.steps import Step


class Progress:
    """Messages on stderr while a study runs."""

    def __init__(self, num_steps: int) -> None:
        self._bar = bar("Study", num_steps, "steps")

    def show(self, running: list[tuple[str, str]], how_far: str) -> None:
        """Show what runs, as (cell, step), and how far it is if that is known."""
        text = ", ".join(f"{cell} {step}" for cell, step in running)
        self._bar.set_postfix_str(f"{text}: {how_far}" if how_far else text)

    def advance(self) -> None:
        """Count a step that ended well."""
        self._bar.update(1)

    def tell_done(self, cell: str, seconds: dict[str, float]) -> None:
        """Print a cell's line."""
        parts = ", ".join(f"{step} {format_duration(s)}" for step, s in seconds.items())
        self._print(f"{cell}: done ({parts})")

    def tell_diverged(self, cell: str) -> None:
        """Print the line of a try whose training diverged."""
        self._print(f"{cell}: training diverged; no try of its search is worse")

    def tell_failed(self, cell: str, step: Step, status: int, lines: list[str]) -> None:
        """Print a cell's line and the end of its log."""
        head = f"{cell}: {step.name} failed with status {status}; {step.log} ends with"
        self._print("\n    ".join([head, *lines]))

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _print(self, text: str) -> None:
        tell(f"{time.strftime('%H:%M:%S')} {text}")
