"""The losses on the validation rows so far: which checkpoint is the best, which stage is done.

They are all that a checkpoint keeps of it. What is the best, and how often in a row none was, is
counted from them whenever it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measured:
    """Mean losses on the same tokens."""

    losses: dict[str, float]
    """Row of experts -> nats per target token."""
    target_tokens: int


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    stage: str
    index: int
    """Position of the stage, from 1."""
    step: int
    """Steps of the stage that were done."""
    losses: dict[str, float]
    """Row of experts -> nats per target token."""


@dataclass
class ValidationHistory:
    """The evaluations of a run on the same rows, in order."""

    data: str | None = None
    """Fingerprint of these rows."""
    points: list[Point] = field(default_factory=list)

    def on(self, data: str) -> None:
        """Begin anew where the rows are others than before."""
        if self.data != data:
            self.data, self.points = data, []

    def at(self, index: int, step: int) -> Point | None:
        """Return the evaluation after a step of a stage, if there was one."""
        return next((p for p in self.points if (p.index, p.step) == (index, step)), None)

    def base(self) -> float | None:
        """Return the base model's loss, which no step changes, if it was ever taken."""
        return next((p.losses["base"] for p in self.points if "base" in p.losses), None)

    def best(self, row: str, stages: Collection[str]) -> Point | None:
        """Return the first evaluation of least loss among those of some stages."""
        points = [p for p in self.points if p.stage in stages and row in p.losses]
        return min(points, key=lambda p: p.losses[row], default=None)

    def stale(self, row: str, index: int, min_delta: float, after: int = 0) -> int:
        """Return how many evaluations of a stage in a row were no new least loss of it.

        ``after``: count those alone that came after so many steps.
        """
        least, count = None, 0
        for point in self.points:
            if point.index != index or row not in point.losses:
                continue
            loss = point.losses[row]
            if least is None or loss < least - min_delta:
                least, count = loss, 0
            elif point.step > after:
                count += 1
        return count

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ValidationHistory:
        """Return what a checkpoint's `state.json` tells."""
        return cls(tree.get("data"), [Point(**point) for point in tree.get("points", [])])
