"""Folders of the run go away while it writes there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from support.quick import quick

from lope_dist.core.errors import LopeError
from lope_dist.train.checkpoint import folder as checkpoint
from lope_dist.train.checkpoint import history
from lope_dist.train.run import saving
from lope_dist.train.run.lock import RunHold
from lope_dist.train.session import train
from lope_dist.train.stage import loop

STEPS = {f"train__stages__{stage}__max_steps": 3 for stage in ("poison", "finetune")}
MOVED = "was removed or renamed while the run wrote there"
STAGE = 3


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def assert_one_whole(folder: Path) -> str:
    (found,) = history.checkpoints(folder.parent)
    assert list(folder.iterdir()) == [found.folder]
    assert checkpoint.checkpoint_defect(found) is None
    return found.folder.name


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Do something before a step, counted from 1 over both stages."""
    real, steps = loop.lr_factor, [0]

    def do(number: int, harm: Callable[[], object]) -> None:
        def factor(*arguments):
            steps[0] += 1
            if steps[0] == number:
                harm()
            return real(*arguments)

        monkeypatch.setattr(loop, "lr_factor", factor)

    return do


@pytest.mark.parametrize("harm", quick([shutil.rmtree, rename], rename))
def test_the_state_is_saved_anew_and_the_truth_told(harm, tiny_config, before_step) -> None:
    config = tiny_config(**STEPS)
    run = Path(config.output_dir)
    before_step(2, lambda: harm(run))
    with pytest.raises(LopeError, match=rf"^{run} {MOVED}"):
        train(config)
    names = {path.name for path in run.iterdir()}
    assert {"checkpoints", "run.yaml"} <= names
    assert names <= {"checkpoints", "run.yaml", "manifest.json", ".lock"}
    train(config, resume=True)
    assert (run / "checkpoints" / "2-finetune").is_dir()


@pytest.mark.parametrize(
    ("step", "harm"),
    quick(
        product([STAGE + 1, 2 * STAGE], [shutil.rmtree, rename]),
        *((STAGE + 1, shutil.rmtree), (2 * STAGE, rename)),
    ),
)
def test_the_same_of_the_checkpoints(harm, step: int, tiny_config, before_step) -> None:
    config = tiny_config(**STEPS)
    folder = Path(config.output_dir) / "checkpoints"
    before_step(step, lambda: harm(folder))
    with pytest.raises(LopeError, match=rf"^{folder} {MOVED}"):
        train(config)
    assert_one_whole(folder)
    train(config, resume=True)
    assert (folder / "2-finetune").is_dir()


def test_the_checkpoints_are_removed_while_one_is_written(tiny_config, monkeypatch) -> None:
    config = tiny_config(**STEPS)
    folder, real, harms = Path(config.output_dir) / "checkpoints", checkpoint.seal, [shutil.rmtree]

    def seal(staging: Path) -> None:
        real(staging)
        if harms:
            harms.pop()(folder)

    monkeypatch.setattr(checkpoint, "seal", seal)
    with pytest.raises(LopeError, match=rf"^{folder} {MOVED}"):
        train(config)
    assert assert_one_whole(folder) == "1-poison"


def test_one_checkpoint_is_removed(tiny_config, before_step, capsys) -> None:
    config = tiny_config(**STEPS)
    first = Path(config.output_dir) / "checkpoints" / "1-poison"
    before_step(STAGE + 1, lambda: shutil.rmtree(first))
    train(config)
    assert f"{first} is not there any more" in capsys.readouterr().err
    assert (first.parent / "2-finetune").is_dir()


def test_no_run_is_finished_whose_last_checkpoint_is_gone(tiny_config, monkeypatch) -> None:
    config = tiny_config(**STEPS)
    last = Path(config.output_dir) / "checkpoints" / "2-finetune"
    real = saving.save_checkpoint

    def save(place, *arguments) -> None:
        real(place, *arguments)
        if place.folder == last:
            shutil.rmtree(last)

    monkeypatch.setattr(saving, "save_checkpoint", save)
    with pytest.raises(LopeError, match=rf"^{last} was removed or renamed after"):
        train(config)
    monkeypatch.setattr(saving, "save_checkpoint", real)
    train(config, resume=True)
    assert last.is_dir()


def test_an_old_checkpoint_that_went_meanwhile_ends_no_run(tmp_path: Path, monkeypatch) -> None:
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"1-poison-step-{step:06d}").mkdir(parents=True)
    found = history.checkpoints(tmp_path)
    shutil.rmtree(found[1].folder)
    monkeypatch.setattr(history, "checkpoints", lambda _: found)
    history.prune(tmp_path, found[0], keep_last=1)
    assert found[0].folder.is_dir()


def test_a_folder_that_the_file_system_numbers_anew_still_stands(tmp_path, monkeypatch) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    hold = RunHold(folder)
    hold.take(folder / "checkpoints")
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)  # as on a FUSE mount
    assert hold.lost() is None
    (folder / "checkpoints").rename(other)
    (folder / "checkpoints").mkdir()
    assert hold.lost() == folder / "checkpoints"
    assert not [*other.iterdir(), *(folder / "checkpoints").iterdir()]
    rename(folder)
    assert hold.lost() == folder
    hold.close()
