"""Steps that are not finite, with and without leave to skip them."""

import math
from pathlib import Path

import pytest

from lope_dist.core.errors import Diverged, LopeError
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.engine.local import LocalEngine
from lope_dist.train.session import train
from lope_dist.train.stage import loop

SHORT = {"train__stages__poison__max_steps": 3, "train__stages__finetune__max_steps": 2}


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], gradient: bool) -> None:
    """Make the loss, or the gradient alone, NaN in the given steps of the whole run."""
    real, at = loop._micro_step, [0]

    def micro_step(session, parts, batch, plan, is_last, *rest):
        engine = parts.engine
        real_backward = engine.backward
        if at[0] in steps:
            engine.backward = lambda loss, last: real_backward(loss * math.nan, last)
        loss = real(session, parts, batch, plan, is_last, *rest)
        engine.backward = real_backward
        bad = at[0] in steps and not gradient
        at[0] += is_last
        return loss * math.nan if bad else loss

    monkeypatch.setattr(loop, "_micro_step", micro_step)


@pytest.fixture(scope="module")
def expected(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is told to leave its second step out."""
    with pytest.MonkeyPatch.context() as patch:
        original, calls = LocalEngine.step, []

        def step(engine, factor):
            calls.append(0)
            if len(calls) != 2:
                return original(engine, factor)
            engine.discard()
            return 1.0

        patch.setattr(LocalEngine, "step", step)
        return train(config_in(tmp_path_factory.mktemp("expected") / "run", **SHORT))


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_bad_step_is_left_out_as_if_it_had_never_been(
    tiny_config, expected: Path, losses, gradient: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {1}, gradient)
        run = train(tiny_config(train__max_skipped_steps=1, **SHORT))
    left_out = losses(expected)
    del left_out[1]
    assert losses(run) == left_out
    last = "checkpoints/2-finetune/adapter.safetensors"
    assert (run / last).read_bytes() == (expected / last).read_bytes()
    state = read_json(run / "checkpoints" / "1-poison" / "state.json")
    (skipped,) = state["progress"]["skipped_steps"]
    assert skipped["step"] == 1
    assert 0 < len(skipped["examples"]) <= 8
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert steps == [0, 2, 0, 1]
    assert read_json(run / "router.json")["poison"]  # no NaN among the sums


def test_one_more_than_allowed_ends_the_run_even_after_a_resume(tiny_config, monkeypatch) -> None:
    config = tiny_config(train__max_skipped_steps=1, train__checkpoint__every_steps=1, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {0, 1}, gradient=True)
        with pytest.raises(Diverged, match=r"Step 1: .* nan; examples \[") as e:
            train(config)
    assert "1 steps" in str(e.value)
    (start,) = read_json(Path(config.output_dir) / "manifest.json")["starts"]
    assert (start["status"], start["diverged"]) == ("failed", True)
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {0}, gradient=True)  # step 1 of the stage, where the resume begins
        with pytest.raises(LopeError, match=r"Step 1: .* nan"):
            train(config, resume=True)
    train(tiny_config(train__max_skipped_steps=2, **SHORT), resume=True)  # free to change
