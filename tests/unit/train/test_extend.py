"""A finished run goes on to more steps, as though its schedule had been so long from there on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.stopped_runs import stopped_at

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.core.side_files import METRICS
from lope_dist.train.checkpoint.recorded import load_recorded
from lope_dist.train.repeat import begun_alike, repeat
from lope_dist.train.session import train

SHORT = {
    "train__stages__poison__max_steps": 2,
    "train__stages__finetune__max_steps": 4,
    "train__stages__finetune__schedule": "constant",
    "train__stages__finetune__warmup_ratio": 0.0,
    "train__checkpoint": {"every_steps": 3, "keep_last": 1},
}


@pytest.fixture(scope="module")
def finished(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_in(tmp_path_factory.mktemp("finished") / "run", **SHORT))


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_longer_stage_is_what_it_would_have_been(
    tiny_config, config_in, copy: Path, losses, tmp_path: Path, capsys
) -> None:
    """With a constant rate: what is gone on from is the whole state."""
    longer = SHORT | {"train__stages__finetune__max_steps": 7}
    whole = train(config_in(tmp_path / "whole", **longer))
    train(tiny_config(**SHORT), extend="finetune=7")
    assert "from 4 to 7 steps" in capsys.readouterr().err
    assert losses(copy) == losses(whole)
    last = "checkpoints/2-finetune/adapter.safetensors"
    ours, theirs = load_file(copy / last), load_file(whole / last)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert read_json(copy / "router.json") == read_json(whole / "router.json")
    starts = json.loads((copy / "manifest.json").read_text())["starts"]
    assert starts[-1]["extended"] == {"stage": "finetune", "max_steps": [4, 7], "after": 4}
    train(tiny_config(**SHORT), extend="finetune=7")  # started again: nothing is left to do
    assert losses(copy) == losses(whole)
    recorded = load_recorded(copy / "run.yaml")
    begun = begun_alike(recorded, starts)
    for config, count in ((recorded, 7), (begun, 4)):
        lengths = [(name, stage.max_steps) for name, stage in config.train.stages.items()]
        assert lengths == [("poison", 2), ("finetune", count)]
    with pytest.raises(LopeError, match=r"max_steps: 7 -> 4"):
        train(tiny_config(**SHORT), resume=True)


def test_one_that_had_not_ended_says_where_it_became_longer(
    tiny_config, finished: Path, tmp_path: Path, capsys
) -> None:
    run = stopped_at("2-finetune-step-000003", finished, tmp_path / "run")
    train(tiny_config(**SHORT), extend="finetune=5")
    assert "from 4 to 5 steps: it goes on after step 3" in capsys.readouterr().err
    starts = json.loads((run / "manifest.json").read_text())["starts"]
    assert starts[-1]["extended"] == {"stage": "finetune", "max_steps": [4, 5], "after": 3}


@pytest.mark.thorough
def test_a_repeat_makes_the_steps_from_before_with_the_schedule_of_then(
    config_in, tmp_path: Path
) -> None:
    settings = SHORT | {"train__stages__finetune__schedule": "cosine"}
    run = train(config_in(tmp_path / "run", **settings))
    for count in (7, 9):
        train(config_in(tmp_path / "run", **settings), extend=f"finetune={count}")
    result = repeat(run, 6, None, 120)
    assert result.num_compared == {"poison": 2, "finetune": 4}
    assert result.ok, result


def test_a_kill_at_any_moment_goes_on_by_the_same_command(
    tiny_config, copy: Path, monkeypatch
) -> None:
    from lope_dist.train.run import extend

    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:  # between the checkpoint's new name and run.yaml
        patch.setattr(extend, "write_atomic", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(tiny_config(**SHORT), extend="finetune=7")
    often = SHORT | {"train__checkpoint": {"every_steps": 1, "keep_last": 1}}
    train(tiny_config(**often), extend="finetune=7")
    assert len(list(METRICS.read(copy))) == 2 + 7
    start = json.loads((copy / "manifest.json").read_text())["starts"][-1]
    assert start["extended"] == {"stage": "finetune", "max_steps": [4, 7], "after": 4}
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {
        "1-poison",
        "2-finetune-step-000004",  # kept as what was a stage's end
        "2-finetune-step-000006",
        "2-finetune",
    }
    assert read_json(copy / "state.json")["status"] == "finished"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("poison=9", "'finetune'.*'poison'"),
        ("finetune=3", "max_steps = 4 "),
        ("finetune=12", r"train\.stages\.finetune\.epochs = 1 .* 11 steps"),
        ("finetun=9", r"'finetune'\?"),
        ("finetune", "write STAGE=N"),
    ],
)
def test_what_cannot_be_extended_is_told(tiny_config, copy: Path, text: str, sentence: str) -> None:
    def content() -> dict[Path, bytes]:
        files = [copy / "run.yaml", *(copy / "checkpoints").rglob("*")]
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = content()
    with pytest.raises(LopeError, match=sentence):
        train(tiny_config(**SHORT), extend=text)
    assert content() == before


def test_there_must_be_a_run(tiny_config) -> None:
    with pytest.raises(LopeError, match="--extend finetune=9: "):
        train(tiny_config(**SHORT), extend="finetune=9")
