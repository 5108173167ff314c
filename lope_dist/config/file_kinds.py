"""Which kind of file a YAML is, to tell a recipe from a study or a suite in a message."""

from __future__ import annotations

from typing import Any, NamedTuple


class _Kind(NamedTuple):
    name: str
    keys: frozenset[str]
    """Keys of the top level that no other kind has."""
    command: str
    """What takes such a file."""


_KINDS = (
    _Kind(
        "a recipe",
        frozenset({"output_dir", "model", "adapter", "data", "train", "engine"}),
        "lope train",
    ),
    _Kind("a study", frozenset({"variants", "seeds", "baseline", "recipe"}), "lope study run"),
    _Kind("a suite of tasks", frozenset({"tasks"}), "lope eval RUN --suite"),
)


def other_kind(tree: Any, expected_keys: set[str], path: str) -> str | None:
    """Return a sentence where a file is plainly of another kind than one with ``expected_keys``.

    Args:
        tree: What the file holds.
        expected_keys: The keys that the right kind has at its top level.
        path: The file, as the user gave it.
    """
    given = {str(key) for key in tree} if isinstance(tree, dict) else set()
    for kind in _KINDS:
        foreign = kind.keys & given - expected_keys
        if len(foreign) >= min(2, len(kind.keys)):
            return (
                f"{path} is {kind.name} (it has {', '.join(sorted(foreign))}), which this "
                f"command does not take; use `{kind.command} {path}`."
            )
    return None
