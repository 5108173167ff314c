"""The run's folder goes away while the run writes there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.train import loop
from lope_dist.train.session import train

STEPS = {f"train__stages__{stage}__max_steps": 3 for stage in ("poison", "finetune")}


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda run: run.rename(run.with_name("moved"))])
def test_the_state_is_saved_anew_and_the_truth_told(
    harm, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**STEPS)
    run, real, steps = Path(config.output_dir), loop.lr_factor, [0]

    def factor(*arguments):
        steps[0] += 1
        if steps[0] == 2:
            harm(run)
        return real(*arguments)

    monkeypatch.setattr(loop, "lr_factor", factor)
    with pytest.raises(LopeError, match="was removed or renamed while the run wrote there"):
        train(config)
    names = {path.name for path in run.iterdir()}
    assert {"checkpoints", "run.yaml"} <= names
    assert names <= {"checkpoints", "run.yaml", "manifest.json", ".lock"}
    train(config, resume=True)
    assert (run / "checkpoints" / "2-finetune").is_dir()
