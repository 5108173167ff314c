"""Nothing that a folder holds beside safetensors and JSON is ever unpickled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.train.checkpoint.integrity import seal
from lope_dist.train.session import train

NAMES = ("pytorch_model.bin", "model.pt", "optimizer.pt", "scheduler.pt", "training_args.bin")


@pytest.fixture
def mined_model(tiny_llama: Path, tmp_path: Path, bomb: bytes) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    for name in NAMES:
        (folder / name).write_bytes(bomb)
    return folder


def test_pickles_beside_a_model_and_in_a_run_are_left_alone(
    tiny_config, mined_model: Path, bomb: bytes, mark: Path
) -> None:
    steps = {f"train__stages__{s}__max_steps": 1 for s in ("poison", "finetune")}
    config = tiny_config(model__name_or_path=str(mined_model), **steps)
    run = train(config)
    for folder in (run, *(run / "checkpoints").iterdir()):
        for name in (*NAMES, "adapter.pt", "adapter.bin", "state.pkl", "latest"):
            (folder / name).write_bytes(bomb)
    assert load_run(run).checkpoint.stage == "finetune"
    shutil.rmtree(run / "checkpoints" / "2-finetune")
    train(config, resume=True)


def test_a_model_of_pickles_alone_is_refused(tiny_config, mined_model: Path, mark: Path) -> None:
    for path in mined_model.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(LopeError, match=r"model\.pt.*save_pretrained"):
        train(tiny_config(model__name_or_path=str(mined_model)))


def test_an_adapter_that_is_a_pickle_is_refused(tiny_config, bomb: bytes, mark: Path) -> None:
    steps = {f"train__stages__{s}__max_steps": 1 for s in ("poison", "finetune")}
    run = train(tiny_config(**steps))
    (run / "checkpoints" / "2-finetune" / "adapter.safetensors").write_bytes(bomb)
    with pytest.raises(LopeError):
        load_run(run)


def test_an_optimizer_state_that_is_a_pickle_is_refused_though_its_seal_is_right(
    tiny_config, bomb: bytes, mark: Path
) -> None:
    config = tiny_config(
        train__stages__poison__max_steps=3,
        train__stages__finetune__max_steps=1,
        train__checkpoint__every_steps=2,
    )
    run = train(config)
    for folder in (run / "checkpoints").iterdir():
        if folder.name != "1-poison-step-000002":
            shutil.rmtree(folder)
    folder = run / "checkpoints" / "1-poison-step-000002"
    (folder / "optimizer.safetensors").write_bytes(bomb)
    (folder / "MANIFEST.json").unlink()
    seal(folder)
    with pytest.raises(LopeError, match=r"optimizer\.safetensors"):
        train(config, resume=True)
