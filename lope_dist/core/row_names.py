"""What the rows of experts are called: the same word in commands, tables and files.

Files of earlier versions have other words for some of them, which are read as those of today.
"""

from __future__ import annotations

from typing import Any

_EARLIER = {"lope_masked": "masked", "lope_masked_plain": "masked_plain", "lope_unmasked": "all"}


def with_names_of_today(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table of rows, by name or as a list of them, in the words of today."""
    rows = table["rows"]
    if isinstance(rows, dict):
        return table | {"rows": {_EARLIER.get(name, name): row for name, row in rows.items()}}
    return table | {
        "rows": [row | {"name": _EARLIER.get(row["name"], row["name"])} for row in rows]
    }


def names_in_files(name: str) -> list[str]:
    """Return what folders of a row may be called, today's first."""
    return [name, *(before for before, today in _EARLIER.items() if today == name)]
