"""Ctrl-C at five moments: nothing is lost but the step in flight, and the run goes on bit-equal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.quick import quick
from support.tiny import tiny_tree

from lope_dist.cli import main
from lope_dist.core.errors import Interrupted
from lope_dist.train import session
from lope_dist.train.checkpoint.folder import read_state
from lope_dist.train.checkpoint.history import newest_checkpoint
from lope_dist.train.run import saving
from lope_dist.train.session import train
from lope_dist.train.stage import loop, stage, validate

SHORT: dict[str, Any] = {
    "train__stages__poison__max_steps": 3,
    "train__stages__finetune__max_steps": 4,
    "train__checkpoint__every_steps": 2,
    "train__evaluate": {"every_steps": 1},
    "train__keep_best": "all",
    "data__validation": {"share": 0.2},
}
MOMENTS = {
    "row pass": (session, "open_parts", 1),
    "load": (session, "load_session", 1),
    "step": (stage, "run_stage", 2),
    "validation": (validate, "token_losses", 40),
    "last validation of a stage": (validate, "row_of", 6),
    "checkpoint write": (saving, "save_checkpoint", 2),
}


@pytest.fixture(scope="module")
def whole(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_in(tmp_path_factory.mktemp("whole") / "run", **SHORT))


def told(run: Path) -> list[dict[str, Any]]:
    """Return all that is logged of steps and evaluations but times and memory."""
    times = ("time", "seconds", "tokens_per_s", "memory_bytes")
    lines = [yaml.safe_load(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


@pytest.mark.parametrize("moment", quick(MOMENTS, "step", "checkpoint write"))
def test_the_run_ends_with_130_and_goes_on_bit_equal(
    tiny_config, whole: Path, monkeypatch, capfd, tmp_path: Path, moment: str
) -> None:
    module, name, count = MOMENTS[moment]
    real, calls = getattr(module, name), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)
    config = tiny_config(**SHORT)
    with pytest.raises(Interrupted) as caught:
        train(config)
    assert caught.value.status == 130
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    saves = moment not in ("row pass", "load")
    assert ("go on with" in str(caught.value)) == saves
    assert ("once more ends at once" in capfd.readouterr().err) == saves
    monkeypatch.setattr(module, name, real)
    run = tmp_path / "run"
    if moment == "validation":
        assert len(calls) <= count + 1, "the validation ends too"
    if saves:
        steps, last = [line for line in told(run) if "loss" in line], newest_checkpoint(run)
        assert last is not None
        state = read_state(last)
        done = state["stage"], state["next_step"]
        assert done == (steps[-1]["stage"], steps[-1]["step"] + 1), "no step that was made is lost"
    train(config, resume="auto")
    assert told(run) == told(whole)
    last = "checkpoints/2-finetune/adapter.safetensors"
    assert (run / last).read_bytes() == (whole / last).read_bytes()


@pytest.fixture
def recipe(tiny_llama: Path, alpaca_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tiny_llama, alpaca_file, tmp_path / "run")))
    return path


def test_the_command_says_how_to_go_on(recipe: Path, monkeypatch, capfd) -> None:
    """In the second step, in this process; a traceback would be pytest's, and no `SystemExit`."""
    real, calls = loop._micro_step, []

    def step(*args: Any) -> Any:
        calls.append(0)
        if len(calls) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(loop, "_micro_step", step)
    monkeypatch.setattr(sys, "argv", ["lope", "train", str(recipe), "--resume", "auto"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "once more ends at once" in told
    assert "go on with" in told


@pytest.mark.thorough
@pytest.mark.parametrize("twice", [False, True])
def test_the_command_ends_without_a_traceback_and_a_second_one_ends_it_at_once(
    recipe: Path, twice: bool
) -> None:
    """Once in the second step; or twice, the second one while the first is still heeded."""
    code = (
        "import os, signal, sys, time\n"
        "from lope_dist.train.stage import loop\n"
        "real, calls = loop._micro_step, []\n"
        "def step(*args):\n"
        "    calls.append(0)\n"
        "    if len(calls) == 12:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        f"        if {twice}:\n"
        "            time.sleep(0.7); os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "    return real(*args)\n"
        "loop._micro_step = step\n"
        f"sys.argv = ['lope', 'train', {str(recipe)!r}, '--resume', 'auto']\n"
        "from lope_dist.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 130, ended.stderr[-2000:]
    assert "Traceback" not in ended.stderr
    assert "once more ends at once" in ended.stderr
    assert ("go on with" in ended.stderr) != twice
