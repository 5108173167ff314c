"""A recipe is data: it makes no objects, runs nothing, reads no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

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
    with pytest.raises(LopeError, match=r"recipe\.yaml .*line 1, column 13.*python/"):
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
    with pytest.raises(LopeError, match=r"run/run\.yaml "):
        train(config, resume=True)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HF_TOKEN}",
        "a/${ oc.env : HF_TOKEN }",
        "${oc.env:HF_TOKEN,none}",
        "${oc.${data.columns.input}:HF_TOKEN}",
        "${${data.columns.output}:HF_TOKEN}",
        "${oc.decode:'${oc.${data.columns.input}:HF_TOKEN}'}",
        "${oc.${oc.decode:env}:${oc.select:data.columns.system}}",
    ],
)
def test_a_recipe_reads_no_secret_of_the_environment(
    value: str, tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3tv4lue")
    monkeypatch.setenv("LOPE_OUTPUT", "fine")
    tree = yaml.safe_load(dump_config(tiny_config()))
    data = dict(tree["data"])
    tree["data"]["columns"] = {"input": "env", "output": "oc.env", "system": "HF_TOKEN"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree | {"output_dir": value}))
    with pytest.raises(LopeError) as told:
        load_config(recipe)
    assert "s3cr3tv4lue" not in str(told.value)
    with pytest.raises(LopeError):
        load_config(recipe, [f"output_dir={value}"])
    recipe.write_text(yaml.safe_dump(tree | {"data": data, "output_dir": "${oc.env:LOPE_OUTPUT}"}))
    assert load_config(recipe).output_dir == "fine"


def test_an_include_of_another_file_does_not_show_it(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("s3cr3tv4lue: [\n")
    (tmp_path / "recipe.yaml").write_text("include: private\n")
    with pytest.raises(LopeError) as told:
        load_config(tmp_path / "recipe.yaml")
    assert "s3cr3tv4lue" not in str(told.value)


@pytest.mark.parametrize("layers", ["${oc.env:HF_TOKEN}", ["${oc.${kind}:HF_TOKEN}"]])
def test_the_name_of_a_layer_reads_no_secret(
    layers: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3tv4lue")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"kind": "env", "include": layers}))
    with pytest.raises(LopeError, match=r"HF_TOKEN.* LOPE_") as told:
        load_config(recipe)
    assert "s3cr3tv4lue" not in str(told.value)


def test_other_users_of_omegaconf_read_what_they_like(
    tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3tv4lue")
    (tmp_path / "recipe.yaml").write_text(dump_config(tiny_config()))
    load_config(tmp_path / "recipe.yaml")
    assert OmegaConf.create({"a": "${oc.env:HF_TOKEN}"}).a == "s3cr3tv4lue"


def test_layers_that_include_one_another_twice_end_in_a_sentence(tmp_path: Path) -> None:
    for number in range(30):
        follower = f"{number + 1}.yaml"
        (tmp_path / f"{number}.yaml").write_text(f"include: [{follower}, {follower}]\n")
    (tmp_path / "30.yaml").write_text("seed: 1\n")
    with pytest.raises(LopeError, match="more than 256 files"):
        load_config(tmp_path / "0.yaml")


def test_aliases_that_grow_end_in_a_sentence(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    with pytest.raises(LopeError, match="expansion"):
        load_config(tmp_path / "recipe.yaml")


def test_values_that_grow_end_in_a_sentence(tmp_path: Path) -> None:
    lines = ["k0: x"] + [f"k{i}: ${{k{i - 1}}}${{k{i - 1}}}" for i in range(1, 60)]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    with pytest.raises(LopeError, match=r"recipe\.yaml .* 1024 MiB"):
        load_config(tmp_path / "recipe.yaml")
