"""Settings that earlier versions had: the value that meant off, and why they were removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Removed(NamedTuple):
    """A setting that an earlier version had."""

    key: str
    """Where it stood; `*` is a name that its user chose."""
    off: Any
    """The value with which it did nothing."""
    why: str
    """What was measured, and where to read on; without the full stop."""


REMOVED = (
    Removed(
        "train.stages.*.router_supervision",
        0.0,
        "supervising the router was not better than not (docs/decisions/0078-removed-losses.md)",
    ),
    Removed(
        "train.stages.*.separation",
        0.0,
        "keeping the experts apart was worse than not (docs/decisions/0078-removed-losses.md)",
    ),
)


def without_removed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of an earlier version without the removed settings that were off.

    One that was on stays, and is refused with the unknown keys.
    """
    for removed in REMOVED:
        tree = _without(tree, removed.key.split("."), removed.off)
    return tree


def advice_on_removed(path: Sequence[str]) -> str | None:
    """Return what to do about the key at ``path``; None if no version had it."""
    for removed in REMOVED:
        parts = removed.key.split(".")
        if len(parts) == len(path) and all(
            part in ("*", given) for part, given in zip(parts, path, strict=True)
        ):
            return f"It was removed: {removed.why}. Leave it out."
    return None


def _without(tree: Any, parts: Sequence[str], off: Any) -> Any:
    """Return ``tree`` without the value at ``parts``, if that is ``off``."""
    if not isinstance(tree, dict):
        return tree
    first, *rest = parts
    if not rest:
        return {key: value for key, value in tree.items() if key != first or value != off}
    names = tree if first == "*" else [first]
    return {key: _without(v, rest, off) if key in names else v for key, v in tree.items()}
