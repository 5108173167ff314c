"""The table of architectures: what counts as right, and what README and docs say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RIGHT = {
    "name": "x",
    "check": "ok",
    "loads": True,
    "logits_equal": True,
    "nf4_share": 1.0,
    "packing": "off",
    "step0_loss_equal": True,
    "trains": True,
    "exports": True,
}


@pytest.mark.parametrize("key", ["loads", "logits_equal", "step0_loss_equal", "trains", "exports"])
def test_a_row_is_right_where_everything_holds(scripts, key: str) -> None:
    models = scripts("models")
    assert models.is_right(RIGHT)
    assert not models.is_right(RIGHT | {key: False})
    assert not models.is_right({"name": "x", "loads": False, "failed": "the process ended"})


def test_a_refused_row_is_right_where_nothing_was_read(scripts) -> None:
    models = scripts("models")
    refused = {"name": "x", "check": "x is not known.", "loads": False}
    assert models.is_right(refused)
    assert not models.is_right(refused | {"loads": True})
    assert "- x: x is not known." in models.page([refused], {"versions": {}, "date": "", "cpu": ""})


def test_the_documents_are_of_one_run(scripts, repository: Path) -> None:
    models = scripts("models")
    result = json.loads((repository / "docs" / "models.json").read_text())
    rows = result["models"]
    assert [row["name"] for row in rows] == list(models.ARCHITECTURES)
    assert result["right"] == sum(map(models.is_right, rows)) == len(rows)
    assert sum(row.get("zero3_equal", False) for row in rows) >= 15
    page = models.page(rows, result["machine"])
    assert (repository / "docs" / "models.md").read_text() == page
    assert f"a table of {len(rows)} architectures" in (repository / "README.md").read_text()
