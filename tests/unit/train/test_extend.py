"""A finished run goes on to more steps, as though its schedule had been so long from there on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.core.side_files import METRICS
from lope_dist.train.session import train

SHORT = {
    "train__stages__poison__max_steps": 2,
    "train__stages__finetune__max_steps": 4,
    "train__stages__finetune__schedule": "constant",
    "train__stages__finetune__warmup_ratio": 0.0,
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
    with pytest.raises(LopeError, match=r"max_steps: 7 -> 4"):
        train(tiny_config(**SHORT), resume=True)


def test_a_kill_at_any_moment_goes_on_by_the_same_command(
    tiny_config, copy: Path, monkeypatch
) -> None:
    from lope_dist.train.run import extend

    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:  # between the checkpoint's new name and run.yaml
        patch.setattr(extend, "write_atomic", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(tiny_config(**SHORT), extend="finetune=6")
    train(tiny_config(**SHORT), extend="finetune=6")
    assert len(list(METRICS.read(copy))) == 2 + 6
    assert read_json(copy / "state.json")["status"] == "finished"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("poison=9", "'finetune'.*'poison'"),
        ("finetune=3", "max_steps = 4 "),
        ("finetun=9", r"'finetune'\?"),
        ("finetune", "write STAGE=N"),
    ],
)
def test_what_cannot_be_extended_is_told(tiny_config, copy: Path, text: str, sentence: str) -> None:
    before = {p: p.read_bytes() for p in (copy / "checkpoints").rglob("*") if p.is_file()}
    with pytest.raises(LopeError, match=sentence):
        train(tiny_config(**SHORT), extend=text)
    assert {p: p.read_bytes() for p in (copy / "checkpoints").rglob("*") if p.is_file()} == before


def test_there_must_be_a_run(tiny_config) -> None:
    with pytest.raises(LopeError, match="--extend finetune=9: "):
        train(tiny_config(**SHORT), extend="finetune=9")
