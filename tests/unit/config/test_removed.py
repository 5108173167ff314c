"""Settings of earlier versions: without effect where they were off, refused where they were on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lope_dist.config.load import dump_config
from lope_dist.config.removed import REMOVED, without_removed
from lope_dist.core.errors import LopeError
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.recorded import load_recorded


def with_settings(config, **values) -> dict:
    """A configuration's file with each removed setting at a value, in every stage."""
    tree = yaml.safe_load(dump_config(config))
    for removed in REMOVED:
        *parents, name = removed.key.split(".")
        assert parents == ["train", "stages", "*"], "this test writes stages' settings alone"
        for stage in tree["train"]["stages"].values():
            stage[name] = values.get(name, removed.off)
    return tree


@pytest.fixture
def write(tmp_path: Path):
    def write(tree: dict) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return write


def test_a_recorded_setting_that_was_off_is_dropped(tiny_config, write) -> None:
    config = tiny_config()
    path = write(with_settings(config))
    assert load_recorded(path) == config
    assert read_recorded(path.read_bytes()) == config.model_dump(mode="json")


@pytest.mark.parametrize("name", [removed.key.rpartition(".")[2] for removed in REMOVED])
def test_a_recorded_setting_that_was_on_is_refused_by_its_name(
    tiny_config, write, repository: Path, name: str
) -> None:
    path = write(with_settings(tiny_config(), **{name: 0.5}))
    with pytest.raises(LopeError) as refused:
        load_recorded(path)
    message = str(refused.value)
    assert f"'{name}'" in message
    assert str(path) in message
    others = {removed.key.rpartition(".")[2] for removed in REMOVED} - {name}
    assert not any(f"'{other}'" in message for other in others), "those were off"
    (page,) = {word.strip("()") for word in message.split() if word.startswith("(docs/")}
    assert (repository / page.rstrip(").")).is_file()
    recorded = read_recorded(path.read_bytes())
    assert recorded is not None
    assert recorded["train"]["stages"]["poison"][name] == 0.5, "a resume tells the difference"


def test_what_was_once_allowed_is_read_without_it(tiny_config, write) -> None:
    """Early stopping by no loss, and the best of AdaLoRA's checkpoints, whose ranks differ."""
    config = tiny_config(data__validation={"share": 0.2}, train__keep_best="all")
    tree = yaml.safe_load(dump_config(config))
    tree["train"]["early_stopping"] = {"patience": 2}
    assert load_recorded(write(tree)) == config
    tree["train"]["evaluate"]["every_steps"] = 2
    assert load_recorded(write(tree)).train.early_stopping is not None
    tree["adapter"] = {"kind": "adalora"}
    tree["train"]["stages"] = {"finetune": {"trainable": ["adapter"]}}
    path = write(tree)
    train = load_recorded(path).train
    assert (train.early_stopping, train.keep_best, train.evaluate.every_steps) == (None, None, 2)
    recorded = read_recorded(path.read_bytes())
    assert recorded is not None
    assert recorded["train"]["early_stopping"] is recorded["train"]["keep_best"] is None


def test_the_rest_of_a_tree_is_left_alone() -> None:
    tree = {"separation": 0.0, "train": {"stages": None, "separation": 0}}
    assert without_removed(tree) == tree
    stages = {"poison": {"separation": 0, "lr": 1}, "odd": [1]}
    kept = without_removed({"train": {"stages": stages}})
    assert kept == {"train": {"stages": {"poison": {"lr": 1}, "odd": [1]}}}
    assert "separation" in stages["poison"], "what was read is not changed"
