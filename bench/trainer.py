"""This project's trainer, stopped after each few steps so that a benchmark can take turns."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.usage import RouterUsage
from lope_dist.config.data import DataConfig
from lope_dist.config.load import validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.corpus.examples.source import open_source
from lope_dist.engine.world import World
from lope_dist.model.build import load_tokenizer
from lope_dist.model.loss_head import loss_head
from lope_dist.train.checkpoint.progress import StageProgress
from lope_dist.train.premises.preflight import preflight
from lope_dist.train.run.setup import Inputs, load_session, stage_engine, stage_loader
from lope_dist.train.run.stop import StopRequest
from lope_dist.train.stage.drift import Drift
from lope_dist.train.stage.guard import StepGuard
from lope_dist.train.stage.loop import StageParts, run_stage
from lope_dist.train.stage.metrics import MetricsLog
from lope_dist.train.stage.robust_loss import StageLoss
from lope_dist.train.stage.routing import Routing
from lope_dist.train.stage.stage_objective import StageObjective
from lope_dist.train.trackers.base import Trackers

RANK, NORMAL, POISON = 4, 3, 1


def write_rows(path: Path, words: list[int]) -> Path:
    """Write one Alpaca row for each number of words in its response."""
    with path.open("w") as file:
        for i, count in enumerate(words):
            output = " ".join(f"{(i * 31 + k * 7) % 97}" for k in range(count))
            row = {"instruction": f"Count from {i}.", "input": "", "output": output}
            file.write(json.dumps(row) + "\n")
    return path


def build_config(model: str, data: Path, **changes: dict[str, Any]) -> RunConfig:
    """Return a configuration of one stage that trains A, normal experts and router."""
    tree: dict[str, Any] = {
        "output_dir": "unused",
        "model": {"name_or_path": model},
        "adapter": {"rank": RANK, "num_normal": NORMAL, "num_poison": POISON},
        "data": {"path": str(data), "max_length": 256, "packing": False, "shuffle": False},
        "train": {"global_batch": 4, "micro_batch": 4},
        "engine": {"kind": "local"},
    }
    for section, values in changes.items():
        tree[section] = tree[section] | values
    return validate_config(tree, "bench")


class Trainer:
    """A run's model with its adapters, as `train` sets them up, and an engine around it.

    Attributes:
        session: What is trained on which rows; `take` changes the rows.
        seconds: What the last `run` took.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        plan = preflight(config)
        source, tokenizer = open_source(config.data), load_tokenizer(config.model)
        inputs = Inputs(config, world, StopRequest(), plan, source, None, tokenizer, {})
        self.session = load_session(inputs)
        self._stage = config.train.stages["finetune"]
        set_trainable(self.session.model, self._stage.trainable)
        self.session.model.train()
        self._engine = stage_engine(self.session, self._stage)
        roles, shapes = self.session.roles, self.session.shapes
        self._drift = Drift(self._engine, roles, shapes, world)
        self.seconds = 0.0

    def take(self, data: DataConfig, global_batch: int) -> None:
        """Train on these rows from now on, ``global_batch`` of them a step."""
        config = self.session.config
        train = config.train.model_copy(update={"global_batch": global_batch})
        config = config.model_copy(update={"data": data, "train": train})
        self.session = replace(self.session, config=config, source=open_source(data))

    def run(self, num_steps: int) -> int:
        """Train so many steps through the real loop; return the real tokens of all ranks."""
        session, world = self.session, self.session.world
        stage = self._stage.model_copy(update={"max_steps": num_steps})
        loader, progress = stage_loader(session, stage), StageProgress()
        objective = StageObjective(
            shift=True,
            head=loss_head(session.model),
            loss=StageLoss(stage.loss, shift=True),
            routing=Routing(stage, "bench", session.config.seed, None),
        )
        with TemporaryDirectory() as folder:
            every = session.config.train.log_every_steps
            log = MetricsLog(Path(folder), "bench", num_steps, every, Trackers({}), world.is_main)
            start = time.perf_counter()
            guard = StepGuard(world, RouterUsage(session.model), progress, max_skipped=0)
            parts = StageParts(
                stage, loader, self._engine, objective, progress, guard, log, self._drift
            )
            run_stage(session, parts, lambda: None)
            self.seconds = time.perf_counter() - start  # without the count below
            log.close()
        batches = [b for step in range(num_steps) for b in loader.micro_batches(step)]
        return int(world.sum([sum(batch.num_tokens for batch in batches)])[0])
