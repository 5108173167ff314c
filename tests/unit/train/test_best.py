"""The best checkpoint is kept, told and found again; a stage that learns no more ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from lope_dist.core.errors import LopeError, Preempted
from lope_dist.core.runlog import read_json
from lope_dist.core.side_files import METRICS, VALIDATION
from lope_dist.evaluate.loaded.load import load_run, run_checkpoint
from lope_dist.train.checkpoint.choice import best_point, choose_checkpoint
from lope_dist.train.checkpoint.folder import checkpoint_at, read_state
from lope_dist.train.checkpoint.validation import Point, ValidationHistory
from lope_dist.train.session import train
from lope_dist.train.stage import validate

RESTLESS: dict[str, Any] = {
    "train__stages__poison__max_steps": 4,
    "train__stages__finetune__max_steps": 9,
    "train__stages__finetune__lr": 0.05,
    "train__stages__finetune__schedule": "constant",
    "train__checkpoint": {"every_steps": 8, "keep_last": 1},
    "train__evaluate": {"every_steps": 1},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rows with other answers than those that are trained on: their loss falls and rises."""
    path = tmp_path_factory.mktemp("valid") / "valid.jsonl"
    rows = [
        {
            "instruction": f"Add the numbers {i} and say the sum.",
            "output": f"XYZ {i} is {i * 3 % 7}",
        }
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RESTLESS | {"data__validation": {"path": str(path)}}


@pytest.fixture(scope="module")
def config(config_in, settings, tmp_path_factory: pytest.TempPathFactory):
    return config_in(tmp_path_factory.mktemp("best") / "run", train__keep_best="masked", **settings)


@pytest.fixture(scope="module")
def run(config) -> Path:
    return train(config)


def masked(run: Path, stage: str = "finetune") -> list[float]:
    return [line["validation"]["masked"] for line in VALIDATION.read(run) if line["stage"] == stage]


def test_the_best_stays_where_older_ones_go(run: Path) -> None:
    losses = masked(run)
    best = losses.index(min(losses)) + 1
    assert 1 < best < 8, "older than all that are kept anyway, or the test says nothing"
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    wanted = {"1-poison", "2-finetune", "2-finetune-step-000008", f"2-finetune-step-{best:06d}"}
    assert set(names) == wanted
    chosen = choose_checkpoint(run, "best")
    assert (chosen.stage, chosen.step) == ("finetune", best)
    assert chosen == checkpoint_at(run, 2, "finetune", best), "saved though no checkpoint was due"
    told = read_json(run / "state.json")["best"]
    assert told == {"stage": "finetune", "steps": best, "row": "masked", "loss": min(losses)}
    loaded = load_run(run, checkpoint=run_checkpoint(run, "best"), progress=False)
    assert loaded.checkpoint == chosen


def test_a_run_says_its_best_while_it_goes_on(config, tmp_path: Path, monkeypatch) -> None:
    real, evaluations = validate.Validator.measure, []

    def measure(self, *arguments):
        evaluations.append(0)
        if len(evaluations) == 7:  # the third of stage 2
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(self, *arguments)

    monkeypatch.setattr(validate.Validator, "measure", measure)
    with pytest.raises(Preempted):
        train(config.model_copy(update={"output_dir": str(tmp_path / "run")}))
    losses = masked(tmp_path / "run")
    assert len(losses) == 2
    said = read_json(tmp_path / "run" / "state.json")["best"]
    assert said == {
        "stage": "finetune",
        "steps": losses.index(min(losses)) + 1,
        "row": "masked",
        "loss": min(losses),
    }


def test_a_stage_that_trains_nothing_of_the_row_has_no_best(config) -> None:
    poison, finetune = (
        Point("poison", 1, 1, {"masked": 0.5}),
        Point("finetune", 2, 1, {"masked": 1}),
    )
    assert best_point(config, ValidationHistory("rows", [poison, finetune])) == finetune
    assert best_point(config, ValidationHistory("rows", [poison])) is None


def test_others_are_found_by_their_steps_or_name(run: Path) -> None:
    assert choose_checkpoint(run, "last").folder.name == "2-finetune"
    assert choose_checkpoint(run, "9").folder.name == "2-finetune"
    assert choose_checkpoint(run, "8").folder.name == "2-finetune-step-000008"
    assert choose_checkpoint(run, "1-poison").stage == "poison"
    with pytest.raises(LopeError, match="'77'; allowed: last, best, "):
        choose_checkpoint(run, "77")


def test_a_best_one_that_is_gone_is_told(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    best = choose_checkpoint(copy, "best").folder
    (best / "adapter.safetensors").write_bytes(b"no")
    with pytest.raises(LopeError, match=r"is damaged: adapter\.safetensors"):
        choose_checkpoint(copy, "best")
    shutil.rmtree(best)
    with pytest.raises(LopeError, match=r"best checkpoint .*stage 'finetune'"):
        choose_checkpoint(copy, "best")


def test_a_kill_before_the_best_one_changes_nothing(run: Path, config, tmp_path: Path) -> None:
    """From the checkpoint of the best step itself the same run follows, and the same best."""
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    best = choose_checkpoint(copy, "best")
    for path in (copy / "checkpoints").glob("2-finetune*"):
        if path != best.folder:
            shutil.rmtree(path)
    train(config.model_copy(update={"output_dir": str(copy)}), resume=True)
    assert masked(copy) == masked(run)
    assert masked(copy, "poison") == masked(run, "poison")
    assert choose_checkpoint(copy, "best").folder.name == best.folder.name
    for name in ("state.json", "2-finetune/state.json"):
        where = "" if name == "state.json" else "checkpoints/"
        ours, theirs = (read_json(folder / f"{where}{name}") for folder in (copy, run))
        assert ours["validation"] == theirs["validation"]


def test_a_run_without_keep_best_has_none(config_in, settings, tmp_path: Path) -> None:
    steps = {f"train__stages__{stage}__max_steps": 2 for stage in ("poison", "finetune")}
    run = train(config_in(tmp_path / "x", **settings | steps))
    assert len(masked(run)) == 2
    with pytest.raises(LopeError, match=r"train\.keep_best"):
        choose_checkpoint(tmp_path / "x", "best")


def test_a_stage_that_learns_no_more_ends_and_the_run_is_whole(
    config_in, settings, run: Path, tmp_path: Path, capsys
) -> None:
    stages = {
        "train__stages__again": {"trainable": ["normal_b"], "lr": 0.001, "max_steps": 2},
        "train__early_stopping": {"patience": 1},
    }
    config = config_in(tmp_path / "run", **settings | stages)
    train(config)
    losses = masked(run)
    expected = next(n for n in range(1, 9) if losses[n] >= min(losses[:n])) + 1
    assert masked(tmp_path / "run") == losses[:expected]
    assert len(masked(tmp_path / "run", "poison")) == 4, "it trains nothing of what is watched"
    told = capsys.readouterr().err
    assert f"Stage finetune ends after step {expected}: the validation loss of 'masked'" in told
    steps = [line["stage"] for line in METRICS.read(tmp_path / "run")]
    assert steps == ["poison"] * 4 + ["finetune"] * expected + ["again"] * 2
    end = choose_checkpoint(tmp_path / "run", "2-finetune")
    assert read_state(end)["next_step"] == expected
    assert read_json(tmp_path / "run" / "state.json")["status"] == "finished"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3-again")
    train(config, resume=True)
    assert [line["stage"] for line in METRICS.read(tmp_path / "run")] == steps


@pytest.mark.thorough
def test_a_stage_that_ended_early_has_its_patience_anew_when_it_is_extended(
    config_in, settings, tmp_path: Path
) -> None:
    rule = {"train__early_stopping": {"patience": 2, "min_delta": 100.0}}
    config = config_in(tmp_path / "run", **settings | rule)
    train(config)
    assert len(masked(tmp_path / "run")) == 1 + 2, "of this stage alone, and none is less by 100"
    train(config, extend="finetune=11")
    assert len(masked(tmp_path / "run")) == 1 + 2 + 2
