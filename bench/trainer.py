"""This project's trainer, stopped after each few steps so that a benchmark can take turns."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.config.load import validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.corpus.loader import StageLoader
from lope_dist.corpus.records import open_source
from lope_dist.engine.groups import build_groups
from lope_dist.engine.local import LocalEngine
from lope_dist.engine.world import World
from lope_dist.model.build import load_model, load_tokenizer
from lope_dist.model.loss_head import loss_head
from lope_dist.model.placement import Replicated
from lope_dist.train.loop import run_stage
from lope_dist.train.metrics import MetricsLog
from lope_dist.train.preflight import adapt, preflight

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
    """The model loaded, its adapters in place, an engine around it."""

    def __init__(self, config: RunConfig, world: World) -> None:
        plan = preflight(config)
        self.config, self.world = config, world
        self.seconds = 0.0
        self.source = open_source(config.data)
        self.tokenizer = load_tokenizer(config.model)
        placement: Any = Replicated(world.device)
        if config.engine.kind == "deepspeed":
            from lope_dist.engine.zero_placement import ZeroPlacement

            placement = ZeroPlacement(world, config.engine)
        self.model = load_model(config.model, placement, progress=False)
        self.context = adapt(self.model, config, plan.family)
        self.stage = config.train.stages["finetune"]
        set_trainable(self.model, self.stage.trainable)
        self.model.train()
        groups = build_groups(self.model, model_roles(self.model), self.stage)
        if config.engine.kind == "local":
            self.engine: Any = LocalEngine(self.model, groups, config.train.optimizer)
        else:
            from lope_dist.engine.zero import ZeroEngine

            rows = config.train.micro_batch
            optimizer = config.train.optimizer
            self.engine = ZeroEngine(self.model, groups, optimizer, config.engine, world, rows)

    def run(self, num_steps: int, packing: bool = False) -> int:
        """Train so many steps through the real loop; return the real tokens of all ranks."""
        folder = Path(mkdtemp())
        config = self.config
        stage = self.stage.model_copy(update={"max_steps": num_steps})
        loader = StageLoader(
            self.source,
            self.tokenizer,
            data=config.data.model_copy(update={"packing": packing}),
            noise=config.noise,
            stage=stage,
            seed=config.seed,
            global_batch=config.train.global_batch,
            micro_batch=config.train.micro_batch,
            rank=self.world.rank,
            world_size=self.world.size,
            is_encoder_decoder=False,
        )
        log = MetricsLog(folder, "bench", loader.num_steps, 1, False, self.world.is_main)
        head = loss_head(self.model)
        context, world = self.context, self.world
        start = time.perf_counter()
        run_stage(stage, loader, self.engine, context, world, log, shift=True, head=head)
        self.seconds = time.perf_counter() - start  # without the count below
        log.close()
        batches = [b for step in range(num_steps) for b in loader.micro_batches(step)]
        return int(world.sum([sum(batch.num_tokens for batch in batches)])[0])
