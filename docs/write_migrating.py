"""Write the table of other tools' names in docs/migrating.md: `make docs`."""

from __future__ import annotations

from pathlib import Path

from lope_dist.config.other_names import ADVICE, KEYS

PAGE = Path(__file__).resolve().parent / "migrating.md"
_MARK = "Do not edit below. -->\n"


def written(page: str) -> str:
    """Return the page with a row for each name, as the errors about unknown keys give them."""
    head, mark, _ = page.partition(_MARK)
    assert mark, f"{PAGE} has lost its mark"
    table = {name: f"`{key}`" for name, key in KEYS.items()} | ADVICE
    rows = "".join(f"| `{name}` | {table[name]} |\n" for name in sorted(table))
    return f"{head}{mark}\n| theirs | here |\n| --- | --- |\n{rows}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
