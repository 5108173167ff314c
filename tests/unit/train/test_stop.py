import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lope_dist.core.errors import Preempted
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.engine.local import LocalEngine
from lope_dist.train.run.stop import SIGNALS, StopRequest
from lope_dist.train.session import train
from lope_dist.train.stage import loop

SHORT = {"train__stages__poison__max_steps": 3, "train__stages__finetune__max_steps": 3}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_its_echo_too(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.is_made
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_made
    assert signal.getsignal(number) == before


def test_a_later_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from lope_dist.train.run import stop\n"
        "stop._SAME_S = 0.1\n"
        "with stop.StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)\n"
    )
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert ended.returncode == -signal.SIGTERM
    assert time.monotonic() - began < 25


@pytest.fixture(scope="module")
def whole(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    return train(config_in(tmp_path_factory.mktemp("whole") / "run", **SHORT))


@pytest.mark.parametrize(
    ("at", "stage", "done", "folder"),
    [
        pytest.param(1, "poison", 2, "1-poison-step-000002", marks=pytest.mark.thorough),
        (2, "finetune", 0, "1-poison"),  # its last step: the stage ends as it would
        (4, "finetune", 2, "2-finetune-step-000002"),
    ],
)
def test_a_stopped_run_is_saved_where_it_is_and_goes_on_bit_equal(
    tiny_config, losses, whole, monkeypatch, tmp_path, at: int, stage: str, done: int, folder: str
) -> None:
    config = tiny_config(**SHORT)
    real, calls = loop._micro_step, []

    def micro_step(session, parts, batch, plan, is_last, *rest):
        if is_last:
            calls.append(0)
            if len(calls) == at + 1:
                os.kill(os.getpid(), signal.SIGUSR1)
        return real(session, parts, batch, plan, is_last, *rest)

    monkeypatch.setattr(loop, "_micro_step", micro_step)
    with pytest.raises(Preempted, match=rf"after step {done} of stage '{stage}'"):
        train(config)
    run = tmp_path / "run"
    assert (run / "checkpoints" / folder / "MANIFEST.json").exists()
    assert not (run / "checkpoints" / "2-finetune").exists()
    train(config, resume="auto")
    assert losses(run) == losses(whole)
    last = "checkpoints/2-finetune/adapter.safetensors"
    assert (run / last).read_bytes() == (whole / last).read_bytes()
    assert read_json(run / "router.json") == read_json(whole / "router.json")
    assert read_json(run / "state.json")["status"] == "finished"


def test_a_signal_in_the_very_last_step_lets_the_run_finish(tiny_config, monkeypatch) -> None:
    real = LocalEngine.step
    calls = []

    def step(engine, factor):
        calls.append(0)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(engine, factor)

    monkeypatch.setattr(LocalEngine, "step", step)
    run = train(tiny_config(**SHORT))
    assert read_json(run / "state.json")["status"] == "finished"
    assert len(list(read_lines(run / "metrics.jsonl"))) == 6
