"""Write the counted columns of the table in docs/recipes.md: `make docs`.

A recipe's row, its order and the model's name are written by hand; the figures are what
`lope params` counts.
"""

from __future__ import annotations

import re
from pathlib import Path

from lope_dist.config.load import load_config
from lope_dist.train.premises.params import count_run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "recipes.md"
_ROW = re.compile(r"^\| `(configs/[^`]+)` \| ([^|]+) \|.*$", re.MULTILINE)
BY_HAND = ("configs/recipes/quickstart.yaml",)
"""Its model is in a package, which need not be installed where this runs."""


def written(page: str) -> str:
    """Return the page with the figures of every recipe as they are counted now."""
    return _ROW.sub(_row, page)


def _row(found: re.Match[str]) -> str:
    path, model = found[1], found[2]
    if path in BY_HAND:
        return found[0]
    counts = count_run(load_config(ROOT / path))
    figures = (
        f"{counts['model_parameters'] / 1e9:.2f} B",
        f"{counts['adapted_layers']}",
        f"{counts['percent_inference']:.3f}",
        f"{counts['percent_with_router_and_poison']:.3f}",
    )
    return f"| `{path}` | {model} | {' | '.join(figures)} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
