"""A training run from configuration to checkpoints: load once, then stage after stage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.lope import model_roles, router_usage
from lope_dist.config.schema import RunConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.core.runlog import read_json, write_json
from lope_dist.corpus.loader import StageLoader
from lope_dist.corpus.records import ExampleSource, open_source
from lope_dist.engine.base import Engine
from lope_dist.engine.groups import build_groups, check_groups, describe_groups
from lope_dist.engine.local import LocalEngine
from lope_dist.engine.world import World, start_world
from lope_dist.model.build import load_model, load_tokenizer
from lope_dist.model.loss_head import loss_head
from lope_dist.model.placement import Placement, Replicated
from lope_dist.train.checkpoint import STATE, Checkpoint, install_checkpoint, save_checkpoint
from lope_dist.train.loop import run_stage
from lope_dist.train.metrics import MetricsLog, keep_stages
from lope_dist.train.preflight import Plan, adapt, preflight
from lope_dist.train.run_folder import open_run_folder

T = TypeVar("T")


@dataclass
class Session:
    """What the stages of a run share."""

    config: RunConfig
    world: World
    source: ExampleSource
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    context: AdapterContext
    roles: dict[str, Role]
    shapes: dict[str, torch.Size]

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)


def train(config: RunConfig, *, resume: bool = False) -> Path:
    """Train all stages and return the run's folder.

    Collective: yes; every rank of the launcher calls this.

    Raises:
        LopeError: anything that the user can mend; nothing is half-written.
    """
    plan = preflight(config)
    source = open_source(config.data)
    world = start_world(config.engine)
    with world.told():
        done = _on_main(world, lambda: open_run_folder(config, resume))
        session = _load(config, world, source, plan)
        start = _restore(session, done)
        if world.is_main:
            keep_stages(session.run_dir, list(config.train.stages)[:start])
        for index, (name, stage) in enumerate(config.train.stages.items(), start=1):
            if index > start:
                _train_stage(session, index, name, stage)
        if world.is_main:
            state = read_json(_checkpoint_of(session, len(config.train.stages)).folder / STATE)
            write_json(session.run_dir / STATE, state | {"status": "finished"})
        world.close()
    return session.run_dir


def _load(config: RunConfig, world: World, source: ExampleSource, plan: Plan) -> Session:
    shapes = {name: p.shape for name, p in plan.model.named_parameters()}
    model = load_model(config.model, _placement(config, world), progress=world.is_main)
    context = adapt(model, config, plan.family)
    context.collect_router = True
    roles = {n: role for n, role in model_roles(model).items() if role != Role.BASE}
    tokenizer = load_tokenizer(config.model)
    return Session(config, world, source, tokenizer, model, context, roles, shapes)


def _placement(config: RunConfig, world: World) -> Placement:
    if config.engine.kind == "deepspeed" and config.engine.zero_stage == 3:
        from lope_dist.engine.zero_placement import ZeroPlacement

        return ZeroPlacement(world, config.engine)
    return Replicated(world.device)


def _restore(session: Session, done: Checkpoint | None) -> int:
    """Load the checkpoint that rank 0 found; return how many stages are done.

    Collective: yes.

    Raises:
        LopeError: its stage saw other data than there are now, or an adapter that does not fit.
    """
    (index,) = session.world.max([float(done.index) if done else 0.0])
    if not index:
        return 0
    checkpoint = _checkpoint_of(session, int(index))
    stage = session.config.train.stages[checkpoint.stage]
    seen = read_json(checkpoint.folder / STATE)["data_fingerprint"]
    now = _loader(session, stage).fingerprint
    if seen != now:
        raise LopeError(
            f"The stage '{checkpoint.stage}' was trained on other data than "
            f"'{session.config.data.path}' holds now (fingerprint {seen}, now {now}); restore the "
            "data, or start over in another output_dir."
        )
    install_checkpoint(session.model, checkpoint)
    return int(index)


def _checkpoint_of(session: Session, index: int) -> Checkpoint:
    """Return where the checkpoint of the stage at ``index``, from 1, is or will be."""
    name = list(session.config.train.stages)[index - 1]
    return Checkpoint(session.run_dir / "checkpoints" / f"{index}-{name}", index, name)


def _train_stage(session: Session, index: int, name: str, stage: StageConfig) -> None:
    config, world, model = session.config, session.world, session.model
    loader = _loader(session, stage)
    injects = stage.noise in ("embedding", "hybrid")
    session.context.embedding_noise = config.noise.embedding if injects else None
    set_trainable(model, stage.trainable)
    model.train()
    engine = _engine(session, stage)
    log = MetricsLog(
        session.run_dir,
        name,
        loader.num_steps,
        config.train.log_every_steps,
        config.train.tensorboard,
        world.is_main,
    )
    shift = not model.config.is_encoder_decoder
    head = loss_head(model)
    run_stage(stage, loader, engine, session.context, world, log, shift=shift, head=head)
    log.close()
    weights = engine.gather(list(session.roles))
    engine.close()
    model.eval()
    usage = router_usage(model, world.sum)
    (num_cut,) = (int(n) for n in world.sum([loader.num_cut]))
    if num_cut and world.is_main:
        print(
            f"Stage {name}: {num_cut} examples were longer than data.max_length = "
            f"{config.data.max_length} tokens and cut at the end.",
            file=sys.stderr,
        )
    state = {
        "status": "running",
        "stage": name,
        "stage_index": index,
        "steps": loader.num_steps,
        "data_fingerprint": loader.fingerprint,
        "cut_examples": num_cut,
    }
    _on_main(world, lambda: _save(session, index, name, weights, state, usage))


def _engine(session: Session, stage: StageConfig) -> Engine:
    config = session.config
    groups = build_groups(session.model, model_roles(session.model), stage)
    wanted = describe_groups(groups)
    engine: Engine
    if config.engine.kind == "local":
        engine = LocalEngine(session.model, groups, config.train.optimizer)
    else:
        from lope_dist.engine.zero import ZeroEngine

        engine = ZeroEngine(
            session.model,
            groups,
            config.train.optimizer,
            config.engine,
            session.world,
            config.train.micro_batch,
        )
    check_groups(wanted, engine.groups_in_use())
    return engine


def _loader(session: Session, stage: StageConfig) -> StageLoader:
    config, arch = session.config, session.model.config
    return StageLoader(
        session.source,
        session.tokenizer,
        data=config.data,
        noise=config.noise,
        stage=stage,
        seed=config.seed,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        rank=session.world.rank,
        world_size=session.world.size,
        is_encoder_decoder=arch.is_encoder_decoder,
        decoder_start_token_id=getattr(arch, "decoder_start_token_id", None),
    )


def _save(
    session: Session,
    index: int,
    name: str,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    usage: dict[str, list[float]],
) -> None:
    stages = list(session.config.train.stages.values())[:index]
    save_checkpoint(
        session.run_dir,
        index,
        name,
        session.config,
        weights,
        session.roles,
        {role for stage in stages for role in stage.trainable},
        session.shapes,
        state,
    )
    write_json(session.run_dir / STATE, state)
    router_file = session.run_dir / "router.json"
    usages = read_json(router_file) if router_file.exists() else {}
    usages[name] = usage
    adapter = session.config.adapter
    usages["experts"] = [f"normal_{i}" for i in range(adapter.num_normal)]
    usages["experts"] += [f"poison_{i}" for i in range(adapter.num_poison)]
    write_json(router_file, usages)


def _on_main(world: World, action: Callable[[], T]) -> T | None:
    """Run something on rank 0 alone; if it fails there, every rank stops.

    Collective: yes.
    """
    result: T | None = None
    error: Exception | None = None
    if world.is_main:
        try:
            result = action()
        except Exception as caught:  # of any kind: the others must not wait in vain
            error = caught
    (failed,) = world.sum([float(error is not None)])
    if error is not None:
        raise error
    if failed:
        raise LopeError("Rank 0 stopped; see its message.")
    return result
