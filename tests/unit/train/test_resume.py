"""What a resume refuses, and what it does where there is nothing to go on from."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.train.session import train

SHORT = {"train__stages__poison__max_steps": 2, "train__stages__finetune__max_steps": 2}


@pytest.fixture
def own_model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def stage_one(tiny_config, own_model: Path):
    """A run whose second stage is yet to come."""
    config = tiny_config(model__name_or_path=str(own_model), **SHORT)
    run = train(config)
    shutil.rmtree(run / "checkpoints" / "2-finetune")
    return config


def scale_one_weight(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.01
    save_file(tensors, path, metadata={"format": "pt"})


def swap_two_tokens(model: Path) -> None:
    path = model / "tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace('"a"', '"¤"').replace('"b"', '"a"').replace('"¤"', '"b"'))
    assert path.read_text() != text


def change_the_norm(model: Path) -> None:
    path = model / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert path.read_text() != text


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (scale_one_weight, "base weights"),
        (swap_two_tokens, "tokenizer"),
        (change_the_norm, "architecture"),
    ],
)
def test_a_changed_model_is_refused(stage_one, own_model: Path, change, what: str) -> None:
    change(own_model)
    with pytest.raises(LopeError) as caught:
        train(stage_one, resume=True)
    said = str(caught.value)
    assert f"The stage 'poison' was trained on other {what} than '{own_model}' holds now" in said
    assert said.count("(fingerprint ") == 1


def test_what_says_nothing_about_the_model_may_change(stage_one, own_model: Path) -> None:
    path = own_model / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"transformers_version": "', '"transformers_version": "9.'))
    assert path.read_text() != text
    assert read_json(train(stage_one, resume=True) / "state.json")["status"] == "finished"


def test_without_one_whole_checkpoint_auto_alone_starts_anew(stage_one, capsys) -> None:
    run = Path(stage_one.output_dir)
    (run / "checkpoints" / "1-poison" / "adapter.json").write_text("{}")
    with pytest.raises(LopeError, match=r"--resume auto"):
        train(stage_one, resume=True)
    assert "1-poison is passed over: adapter.json" in capsys.readouterr().err
    train(stage_one, resume="auto")
    assert read_json(run / "state.json")["status"] == "finished"
    assert read_json(run / "checkpoints" / "1-poison" / "adapter.json")["tensors"]


def test_a_fresh_folder_is_a_start_for_auto(tiny_config) -> None:
    run = train(tiny_config(**SHORT), resume="auto")
    assert read_json(run / "state.json")["status"] == "finished"


def test_files_that_a_kill_kept_from_being_written_are_made_up_for(stage_one) -> None:
    """Between a stage's checkpoint and what the run's folder says of it."""
    run = Path(stage_one.output_dir)
    router = read_json(run / "router.json")
    (run / "router.json").unlink()
    (run / "state.json").unlink()
    train(stage_one, resume=True)
    assert read_json(run / "router.json") == router
