"""The examples of docs/data.md are read as it says."""

import re
from pathlib import Path

import pytest
import yaml
from support.row_files import write_bytes

from lope_dist.config.data import FORMATS, DataConfig
from lope_dist.corpus.examples.source import open_source

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
FORMAT = re.compile(r"^### `(\w+)`\n.*?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {name: (suffix, text) for name, suffix, text in FORMAT.findall(PAGE)}


def test_every_format_has_an_example():
    assert set(SECTIONS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_an_example_is_found_to_be_of_its_format(tmp_path, name):
    suffix, text = SECTIONS[name]
    path = write_bytes(tmp_path / f"x.{suffix}", text.encode())
    found, told = (open_source(DataConfig(path=str(path), format=f)) for f in ("auto", name))
    assert len(found) == 2
    assert list(found.read()) == list(told.read())


def test_the_recipes_are_valid():
    recipes = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(recipes) == 4
    for recipe in recipes:
        assert DataConfig(**yaml.safe_load(recipe)["data"]).all_sources
