"""`from lope_dist import ...`: the names that docs/python.md has, and its example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.tiny import tiny_tree

import lope_dist

PAGE = (Path(__file__).resolve().parents[2] / "docs/python.md").read_text()


def test_the_page_names_all_that_is_exported() -> None:
    for name in lope_dist.__all__:
        assert callable(getattr(lope_dist, name))
        assert re.search(rf"`{name}\b", PAGE), name
    with pytest.raises(AttributeError, match="no_such"):
        lope_dist.no_such  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_the_import_alone_is_light() -> None:
    code = "import sys, lope_dist; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_example_runs(
    tiny_llama: Path, alpaca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    tree = tiny_tree(tiny_llama, alpaca_file, tmp_path / "run")
    tree["data"]["validation"] = {"share": 0.1}
    for stage in tree["train"]["stages"].values():
        stage["max_steps"] = 1
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(tree))
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(example, "docs/python.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["masked", "all", "base"]
    assert [*Path("exported").glob("*.safetensors")]
