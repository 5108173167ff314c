"""What a run's losses and weights may depend on, and how a run ends that cannot go on."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.quick import quick

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.corpus.feed.loader import StageLoader
from lope_dist.engine.local import LocalEngine
from lope_dist.engine.world import World
from lope_dist.train import session
from lope_dist.train.session import train
from lope_dist.train.stage import loop, stage

SHORT = {"train__stages__poison__max_steps": 3, "train__stages__finetune__max_steps": 3}


def adapter(folder: Path, checkpoint: str = "2-finetune") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / checkpoint / "adapter.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def short(config_in, tmp_path_factory):
    """Three steps a stage."""
    return train(config_in(tmp_path_factory.mktemp("short") / "run", **SHORT))


def test_the_same_configuration_gives_the_same_run(tiny_config, short, losses) -> None:
    again = train(tiny_config(**SHORT))
    assert losses(again) == losses(short)
    assert_same(adapter(again), adapter(short))


@pytest.mark.parametrize(
    ("micro_batch", "packing"),
    quick([(1, True), (3, True), (1, False), (3, False), (8, False)], (1, True), (3, False)),
)
def test_how_a_batch_is_split_changes_no_loss(
    tiny_config, short, losses, micro_batch: int, packing: bool
) -> None:
    folder = train(tiny_config(train__micro_batch=micro_batch, data__packing=packing, **SHORT))
    assert losses(folder) == pytest.approx(losses(short), rel=1e-5)


def test_the_seed_changes_the_run(tiny_config, short, losses) -> None:
    assert losses(train(tiny_config(seed=1, **SHORT)))[0] != losses(short)[0]


def test_an_evaluation_between_steps_changes_nothing(
    tiny_config, short, losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, outputs = LocalEngine.step, []

    def step(engine: LocalEngine, lr_factor: float) -> float:
        norm = original(engine, lr_factor)
        model, context = engine._model, engine._model.lope_context
        model.eval()
        for experts in ("masked", "none", "all"):
            with torch.no_grad(), context.answering(experts):
                ids = torch.arange(40).view(2, 20) + len(outputs)
                outputs.append(model(input_ids=ids).logits)
        model.train()
        return norm

    monkeypatch.setattr(LocalEngine, "step", step)
    folder = train(tiny_config(**SHORT))
    assert len(outputs) == 18
    assert losses(folder) == losses(short)
    assert_same(adapter(folder), adapter(short))
    assert read_json(folder / "router.json") == read_json(short / "router.json")


KILLS = [
    (name, step, every)
    for name, step in (("poison", 1), ("poison", 2), ("finetune", 2))
    for every in (None, 1, 2)
]
"""A stage, the step that dies, and how often it saves."""


class Killed(BaseException):
    """The process dies."""


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    original = stage.MetricsLog.step

    def log(self, at, *args):
        if (self._stage, at) == (name, step):
            raise Killed
        original(self, at, *args)

    monkeypatch.setattr(stage.MetricsLog, "step", log)


@pytest.mark.parametrize(
    ("name", "step", "every"),
    quick(KILLS, ("poison", 1, None), ("poison", 2, 1), ("finetune", 2, 2)),
)
def test_a_run_killed_and_resumed_equals_one_that_was_not(
    tiny_config, short, losses, name: str, step: int, every: int | None
) -> None:
    """From the last checkpoint in the stage, or from its beginning if there is none."""
    config = tiny_config(train__checkpoint__every_steps=every, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, name, step)
        with pytest.raises(Killed):
            train(config)
    with pytest.MonkeyPatch.context() as patch:
        steps = count_steps(patch)
        folder = train(config, resume=True)
    done = step // every * every if every else 0
    rest = 6 - (3 if name == "finetune" else 0) - done
    assert len(steps) == rest
    assert_same(adapter(folder, "1-poison"), adapter(short, "1-poison"))
    assert_same(adapter(folder), adapter(short))
    lines = [(line["stage"], line["step"]) for line in read_lines(folder / "metrics.jsonl")]
    assert lines == [(name, i) for name in ("poison", "finetune") for i in range(3)]
    assert losses(folder) == losses(short)
    assert drifts(folder) == drifts(short)
    assert counts(folder) == counts(short)
    assert read_json(folder / "router.json") == read_json(short / "router.json")
    assert read_json(folder / "state.json") == read_json(short / "state.json")
    assert read_json(folder / "state.json")["status"] == "finished"


def drifts(folder: Path) -> list[dict[str, float] | None]:
    """Return what each line says of the drift."""
    return [line.get("drift") for line in read_lines(folder / "metrics.jsonl")]


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Return each stage's steps and tokens."""
    costs = read_json(folder / "cost.json")
    return {stage: (cost["steps"], cost["tokens"]) for stage, cost in costs.items()}


def test_a_stage_whose_start_is_lost_goes_on_without_its_drift(
    tiny_config, short, losses, capsys
) -> None:
    config = tiny_config(train__checkpoint__every_steps=1, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "finetune", 2)
        with pytest.raises(Killed):
            train(config)
    shutil.rmtree(Path(config.output_dir) / "checkpoints" / "1-poison")
    folder = train(config, resume=True)
    assert "The drift of stage 'finetune' is not logged any more" in capsys.readouterr().err
    lines = list(read_lines(folder / "metrics.jsonl"))
    assert ["drift" in line for line in lines] == [True, False, True, True, False, False]
    assert losses(folder) == losses(short)


def test_a_step_has_one_sum_over_the_ranks(tiny_config, monkeypatch: pytest.MonkeyPatch) -> None:
    """One before the stage, one a step, and one for each drift: of the first step and the last."""
    real_sum, real_run, sums = World._reduce, stage.run_stage, []
    counts: list[int] = []

    def run_stage(*arguments, **settings):
        before = len(sums)
        stopped = real_run(*arguments, **settings)
        counts.append(len(sums) - before)
        return stopped

    monkeypatch.setattr(World, "_reduce", lambda w, v, op: sums.append(v) or real_sum(w, v, op))
    monkeypatch.setattr(stage, "run_stage", run_stage)
    train(tiny_config(**SHORT))
    assert counts == [1 + 3 + 2] * 2


def test_a_step_whose_data_fail_ends_the_run_after_the_step_before(
    tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StageLoader.micro_batches

    def micro_batches(loader: StageLoader, step: int):
        if step == 2:
            raise LopeError("row 7 is no row")
        return real(loader, step)

    monkeypatch.setattr(StageLoader, "micro_batches", micro_batches)
    config = tiny_config(train__checkpoint__every_steps=1, **SHORT)
    with pytest.raises(LopeError, match="row 7 is no row"):
        train(config)
    folder = Path(config.output_dir)
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [0, 1]
    state = read_json(next((folder / "checkpoints").glob("*poison*")) / "state.json")
    assert state["next_step"] == 2


def count_steps(patch: pytest.MonkeyPatch) -> list[float]:
    original, steps = LocalEngine.step, []
    patch.setattr(LocalEngine, "step", lambda e, f: steps.append(f) or original(e, f))
    return steps


def test_a_resume_on_other_data_is_refused(
    tiny_config, alpaca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(alpaca_file.read_bytes())
    config = tiny_config(data__path=str(data), **SHORT)
    kill_at(monkeypatch, "finetune", 1)
    with pytest.raises(Killed):
        train(config)
    data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(LopeError, match=r"'poison' .*restore"):
        train(config, resume=True)


def test_a_resumed_run_that_was_finished_trains_nothing(
    tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**SHORT)
    folder = train(config)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    before = {p: p.read_bytes() for p in files}
    monkeypatch.setattr(session, "StageRun", None)
    train(config, resume=True)
    assert {p: p.read_bytes() for p in files} == before
    starts = read_json(folder / "manifest.json")["starts"]
    assert [start["status"] for start in starts] == ["finished", "finished"]


def test_a_loss_that_is_not_finite_stops_the_run_before_its_step(
    tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls, ids = loop.summed_loss, [], []

    def sometimes_nan(*args):
        calls.append(0)
        loss = original(*args)
        return loss * float("nan") if len(calls) == 2 else loss

    original_micro = loop._micro_step

    def micro(session, parts, batch, *args):
        ids.append(list(batch.example_ids))
        return original_micro(session, parts, batch, *args)

    steps = count_steps(monkeypatch)
    monkeypatch.setattr(loop, "summed_loss", sometimes_nan)
    monkeypatch.setattr(loop, "_micro_step", micro)
    config = tiny_config(data__packing=False, **SHORT)  # 2 micro-batches of 4 examples a step
    with pytest.raises(LopeError) as caught:
        train(config)
    told = re.match(r"Step 0, rank 0: the loss is nan; examples \[(.+)\]\.", str(caught.value))
    assert told is not None
    assert sorted(map(int, told[1].split(", "))) == sorted(ids[1])
    assert len(ids[1]) == 4
    assert steps == []
    assert not (Path(config.output_dir) / "checkpoints").exists()


def test_a_gradient_that_is_not_finite_stops_the_run(
    tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngine, "step", lambda engine, factor: float("inf"))
    config = tiny_config(**SHORT)
    with pytest.raises(LopeError, match=r"Step 0: .* inf; examples \["):
        train(config)
    assert not (Path(config.output_dir) / "checkpoints").exists()


def test_data_without_any_target_are_refused_before_the_first_step(tiny_config) -> None:
    with pytest.raises(LopeError, match=r"Nothing .*data\.max_length"):
        train(tiny_config(data__max_length=8, **SHORT))


def test_what_is_wrong_is_found_before_the_folder_is_claimed(tiny_config) -> None:
    config = tiny_config(adapter__targets=["q_prj"])
    with pytest.raises(LopeError, match=r"'q_prj'.*'q_proj'"):
        train(config)
    assert not Path(config.output_dir).exists()
