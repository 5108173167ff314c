"""What the stages of a run are made of: model, tokenizer, data, fingerprints, engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lope_dist.adapters.adalora import num_matrices
from lope_dist.adapters.auxiliary import ORTHOGONALITY, AuxiliaryLosses
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.lope import model_roles
from lope_dist.config.baselines import AdaLoraConfig, AnyAdapterConfig
from lope_dist.config.schema import RunConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.roles import Role
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.feed.loader import StageLoader
from lope_dist.engine.base import Engine, OpenEngine
from lope_dist.engine.groups import build_groups, check_groups, describe_groups
from lope_dist.engine.local import LocalEngine
from lope_dist.engine.world import World
from lope_dist.engine.wrappers import AllocatingEngine, AveragingEngine
from lope_dist.model.build import load_model
from lope_dist.model.families import decoder_start_of
from lope_dist.model.placement import Placement, Replicated
from lope_dist.train.premises.preflight import Plan, adapt
from lope_dist.train.run.lock import RunHold
from lope_dist.train.run.stop import StopRequest
from lope_dist.train.trackers.base import Trackers


@dataclass
class Inputs:
    """What a run is made of, before any weight is read."""

    config: RunConfig
    world: World
    stop: StopRequest
    plan: Plan
    source: ExampleSource
    validation: ExampleSource | None
    """Rows that are never trained on."""
    tokenizer: PreTrainedTokenizerBase
    fingerprints: dict[str, str]
    """Of base weights, architecture and tokenizer."""
    hold: RunHold | None = field(default=None, kw_only=True)
    """The run's folder, locked; on the main rank alone."""

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)


@dataclass
class Session(Inputs):
    """A run whose model is in memory."""

    model: PreTrainedModel
    context: AdapterContext
    roles: dict[str, Role]
    shapes: dict[str, torch.Size]
    trackers: Trackers
    """Of this start; on the main rank alone there are some."""


def load_session(inputs: Inputs) -> Session:
    """Read the base model and inject the adapters. Collective: yes."""
    config, plan = inputs.config, inputs.plan
    shapes = {name: p.shape for name, p in plan.model.named_parameters()}
    placement = placement_of(config, inputs.world)
    model = load_model(config.model, placement, progress=inputs.world.is_main)
    context = adapt(model, config, plan.family)
    roles = {n: role for n, role in model_roles(model).items() if role != Role.BASE}
    return Session(
        **vars(inputs),
        model=model,
        context=context,
        roles=roles,
        shapes=shapes,
        trackers=Trackers({}),
    )


def stage_loader(inputs: Inputs, stage: StageConfig) -> StageLoader:
    """Return this rank's batches of a stage."""
    return StageLoader(
        inputs.source,
        inputs.tokenizer,
        inputs.config,
        stage,
        rank=inputs.world.rank,
        world_size=inputs.world.size,
        decoder_start_token_id=decoder_start_of(inputs.plan.model.config),
    )


def stage_engine(session: Session, stage: StageConfig) -> Engine:
    """Return an engine around the model, which trains a stage's roles. Collective: yes.

    `adapters.inject.set_trainable` comes before it.
    """
    config = session.config
    groups = build_groups(session.model, model_roles(session.model), stage)
    expected = describe_groups(groups)
    engine: OpenEngine
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
    check_groups(expected, engine.groups_in_use())
    if isinstance(config.adapter, AdaLoraConfig):
        return allocating(engine, config.adapter, session, stage)
    return engine if stage.ema_decay is None else AveragingEngine(engine, stage.ema_decay)


def auxiliary_losses(model: PreTrainedModel, config: AnyAdapterConfig) -> AuxiliaryLosses | None:
    """Return the losses that an adapter's layers add, if any."""
    if not isinstance(config, AdaLoraConfig) or config.orthogonality == 0:
        return None
    return AuxiliaryLosses(
        {ORTHOGONALITY: config.orthogonality}, {ORTHOGONALITY: num_matrices(model)}
    )


def allocating(
    engine: OpenEngine, config: AdaLoraConfig, session: Session, stage: StageConfig
) -> Engine:
    """Return the engine of a stage that also allocates AdaLoRA's ranks."""
    from lope_dist.adapters.rank_allocation import RankAllocation

    shapes = {name: session.shapes[name] for name in session.roles}
    allocation = RankAllocation(config, shapes, stage_loader(session, stage).num_steps)
    return AllocatingEngine(engine, list(shapes), allocation)


def placement_of(config: RunConfig, world: World) -> Placement:
    """Return where a run's engine wants the base model's weights."""
    if config.engine.partitions_parameters:
        from lope_dist.engine.zero_placement import ZeroPlacement

        return ZeroPlacement(world, config.engine)
    return Replicated(world.device)
