"""Pages that give figures of files, or lists of the code, say what those hold."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_on_many_ranks_has_the_figures_of_its_file() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    results = json.loads((ROOT / "bench" / "results" / "peers.json").read_text())
    rows = results["figures"]["sizes"]["rows"]
    for row in rows:
        figures = (
            f"| {row['ranks']} | {row['keys_per_s']:.0f} | {row['slowest_answer_ms']:.0f} ms "
            f"| {row['dead_s']:.1f} s | {row['hung_s']:.1f} s |"
        )
        assert figures in page
    (host_s,) = [row["host_s"] for row in rows if row["host_s"]]
    assert f"named in {host_s:.1f} s" in page
    assert f"is {results['ratios']['slope']:.3f}, and" in page
    assert results["ratios"]["over_limit"] <= 1, "the page says that no time is over its limit"


def test_the_page_on_other_tools_has_every_name() -> None:
    script = ROOT / "docs" / "write_migrating.py"
    spec = importlib.util.spec_from_file_location("write_migrating", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "migrating.md").read_text()
    assert module.written(page) == page, "run `make docs` and commit docs/migrating.md"
    assert "| `sequence_len` | `data.max_length` |" in page
