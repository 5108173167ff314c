"""A recipe is data: it makes no objects, runs nothing, reads no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lope_dist.config.load import dump_config, load_config
from lope_dist.core.errors import LopeError
from lope_dist.train.session import train

TAGS = (
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/object/apply:subprocess.check_output [['touch', '{mark}']]",
    "!!python/name:os.system",
)


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_makes_an_object(tag: str, tmp_path: Path, mark: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: {tag.format(mark=mark)}\n")
    with pytest.raises(LopeError, match="is not valid YAML"):
        load_config(recipe)
    recipe.write_text("output_dir: x\n")
    with pytest.raises(LopeError):
        load_config(recipe, [f"output_dir={tag.format(mark=mark)}"])


@pytest.mark.parametrize("tag", TAGS)
def test_a_run_folder_that_was_tampered_with_makes_none(
    tag: str, tiny_config, tmp_path: Path, mark: Path
) -> None:
    config = tiny_config()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(f"seed: {tag.format(mark=mark)}\n")
    with pytest.raises(LopeError, match="is not the configuration of a run"):
        train(config, resume=True)


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HF_TOKEN}", "a/${ oc.env : HF_TOKEN }", "${oc.env:HF_TOKEN,none}"],
)
def test_a_recipe_reads_no_secret_of_the_environment(
    value: str, tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3tv4lue")
    monkeypatch.setenv("LOPE_OUTPUT", "fine")
    tree = yaml.safe_load(dump_config(tiny_config()))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree | {"output_dir": value}))
    with pytest.raises(LopeError) as told:
        load_config(recipe)
    assert "s3cr3tv4lue" not in str(told.value)
    with pytest.raises(LopeError):
        load_config(recipe, [f"output_dir={value}"])
    recipe.write_text(yaml.safe_dump(tree | {"output_dir": "${oc.env:LOPE_OUTPUT}"}))
    assert load_config(recipe).output_dir == "fine"


def test_an_include_of_another_file_does_not_show_it(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("s3cr3tv4lue: [\n")
    (tmp_path / "recipe.yaml").write_text("include: private\n")
    with pytest.raises(LopeError) as told:
        load_config(tmp_path / "recipe.yaml")
    assert "s3cr3tv4lue" not in str(told.value)
