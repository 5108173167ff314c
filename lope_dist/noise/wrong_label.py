"""Wrong label: the answer of another example."""

from __future__ import annotations

from collections.abc import Callable

from lope_dist.noise.base import NOISE, ResponseOperation


@NOISE.register("wrong_label")
@ResponseOperation
def wrong_label(response: str, other: Callable[[], str | None], key: int) -> str | None:
    """Return another example's answer as it stands there."""
    return other()
