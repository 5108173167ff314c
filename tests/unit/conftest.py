"""One trained run that many tests look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lope_dist.config.schema import RunConfig
from lope_dist.core.runlog import read_lines


@dataclass
class TrainedRun:
    """A run folder with both stages done; tests must not write into it."""

    folder: Path
    config: RunConfig
    embedding_noise: list[object] = field(default_factory=list)
    """`context.stage.embedding_noise` as each stage began."""
    lrs: list[dict[str, float]] = field(default_factory=list)
    """The optimizer's own learning rates at each step."""


def losses_of(folder: Path) -> list[float]:
    """Return the losses of all steps, as logged."""
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


@pytest.fixture(scope="session")
def losses():
    """Return a function: run folder -> its losses."""
    return losses_of


@pytest.fixture(scope="session")
def trained(config_in, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Both stages on the tiny model, NF4 in float32, local engine."""
    # Here, not above: it imports torch, seconds that other tests need not spend.
    from lope_dist.train import session
    from lope_dist.train.run import setup
    from lope_dist.train.stage import stage

    run = TrainedRun(Path(), config_in(tmp_path_factory.mktemp("trained") / "run"))
    original, step = stage.run_stage, setup.LocalEngine.step

    def spy(session, *arguments):
        run.embedding_noise.append(session.context.stage.embedding_noise)
        return original(session, *arguments)

    def step_spy(engine, lr_factor):
        norm = step(engine, lr_factor)
        run.lrs.append({str(group.role): group.lr for group in engine.groups_in_use()})
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.LocalEngine, "step", step_spy)
        patch.setattr(stage, "run_stage", spy)
        run.folder = session.train(run.config)
    return run
