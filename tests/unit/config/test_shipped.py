"""Recipes by the name that `lope recipes` gives them, from any folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lope_dist.cli import main
from lope_dist.config.load import load_config
from lope_dist.config.named import is_model_name
from lope_dist.core.errors import LopeError
from lope_dist.core.shipped import shipped, shipped_config


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["lope", *arguments])
        with pytest.raises(SystemExit):
            main()
        output = capsys.readouterr()
        return output.out + output.err

    return run


@pytest.mark.parametrize("name", ["qwen3_8b", "recipes/qwen3_8b", "configs/recipes/qwen3_8b.yaml"])
def test_one_recipe_has_three_names(name: str) -> None:
    assert shipped_config(name) == shipped("configs/recipes/qwen3_8b.yaml")
    assert not is_model_name(name)
    assert load_config(name, ["data.path=x"]).model.name_or_path == "Qwen/Qwen3-8B"


def test_own_recipes_build_on_shipped_layers_and_own_files_come_first() -> None:
    Path("mine.yaml").write_text("include: base/model_llama2_7b.yaml\n" + yaml.safe_dump(_DATA))
    assert load_config("mine.yaml").model.architecture is not None
    Path("qwen3_8b.yaml").write_text(yaml.safe_dump(_TREE))
    assert load_config("qwen3_8b.yaml").model.name_or_path == "some/model"


@pytest.mark.parametrize("name", ["qwen3_8", "../configs/recipes/qwen3_8b", "launch/kubernetes"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(LopeError, match="lope recipes"):
        load_config(name)


def test_every_listed_recipe_is_copied_as_one_file_that_means_the_same(lope) -> None:
    listed = json.loads(lope("recipes", "--json"))
    assert {name.partition("/")[0] for name in listed} == {
        "recipes",
        "baselines",
        "paper",
        "studies",
    }
    assert all(listed.values())
    lope("recipes", "copy", "recipes/phi4", "copy.yaml")
    assert "include" not in yaml.safe_load(Path("copy.yaml").read_text())
    assert load_config("copy.yaml", ["data.path=x"]) == load_config("phi4", ["data.path=x"])
    assert "copy.yaml exists" in lope("recipes", "copy", "phi4", "copy.yaml")
    assert "lope study run" in lope("recipes", "copy", "smollm2_quick")


_DATA = {"output_dir": "run", "data": {"path": "x"}, "train": {}}
_TREE = _DATA | {"model": {"name_or_path": "some/model"}}
