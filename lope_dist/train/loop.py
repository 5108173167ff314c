"""The training loop of one stage. It knows no stage by name and no engine by kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lope_dist.adapters.context import AdapterContext
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.batches import MicroBatch
from lope_dist.corpus.loader import StageLoader
from lope_dist.engine.base import Engine
from lope_dist.engine.world import World
from lope_dist.model.loss_head import LossHead
from lope_dist.train.metrics import MetricsLog
from lope_dist.train.objective import summed_loss, targets_of
from lope_dist.train.schedule import lr_factor


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step as all ranks see it."""

    batches: list[MicroBatch]
    target_tokens: int
    tokens: int


def run_stage(
    stage: StageConfig,
    loader: StageLoader,
    engine: Engine,
    context: AdapterContext,
    world: World,
    log: MetricsLog,
    *,
    shift: bool,
    head: LossHead | None,
) -> None:
    """Train one stage to its end.

    ``shift``: position t predicts label t + 1. ``head``: see `objective.summed_loss`.
    Collective: yes.

    Raises:
        LopeError: a loss that is not finite, before its step changes any weight; the
            message names step, rank and example ids.
    """
    peaks = {str(group.role): group.lr for group in engine.groups_in_use()}
    for step, plan in _plans(loader, world):
        losses = [
            _micro_step(
                engine, context, batch, plan, i == len(plan.batches) - 1, world, shift, head
            )
            for i, batch in enumerate(plan.batches)
        ]
        values = torch.stack(losses).tolist()  # one wait for the device a step
        loss = _global_loss(values, plan.batches, step, world)
        factor = lr_factor(stage, step, loader.num_steps)
        grad_norm = engine.step(factor)
        if not math.isfinite(grad_norm):
            raise LopeError(
                f"Step {step}: the gradient's norm is {grad_norm}; examples "
                f"{loader.example_ids(step)}. Lower the learning rate or look at the examples."
            )
        log.step(
            step,
            plan.tokens,
            {
                "loss": loss,
                "lr": {role: peak * factor for role, peak in peaks.items()},
                "grad_norm": grad_norm,
                "target_tokens": plan.target_tokens,
            },
        )


def _plans(loader: StageLoader, world: World) -> Iterator[tuple[int, StepPlan]]:
    """Yield each step's micro-batches, as many on each rank: collectives need company."""
    for step in range(loader.num_steps):
        batches = loader.micro_batches(step)
        targets = sum(batch.num_target_tokens for batch in batches)
        tokens = sum(batch.num_tokens for batch in batches)
        total_targets, total_tokens = (int(n) for n in world.sum([targets, tokens]))
        (longest,) = world.max([len(batches)])
        batches += [loader.filler() for _ in range(int(longest) - len(batches))]
        if total_targets == 0:
            raise LopeError(
                f"Step {step} has no token to learn from: every response of the examples "
                f"{loader.example_ids(step)} lies behind data.max_length; raise it."
            )
        yield step, StepPlan(batches, total_targets, total_tokens)


def _micro_step(
    engine: Engine,
    context: AdapterContext,
    batch: MicroBatch,
    plan: StepPlan,
    is_last: bool,
    world: World,
    shift: bool,
    head: LossHead | None,
) -> torch.Tensor:
    """Run one micro-batch forward and backward; return its part of the step's loss."""
    targets = targets_of(batch.labels, shift)
    batch = batch.to(world.device)
    context.token_keys, context.noise_mask = batch.token_keys, batch.noise_mask
    loss = summed_loss(lambda: engine.forward(batch.inputs), head, targets, world.device)
    loss = loss / plan.target_tokens
    engine.backward(loss, is_last)
    return loss.detach()


def _global_loss(
    values: Sequence[float], batches: Sequence[MicroBatch], step: int, world: World
) -> float:
    """Return the step's loss over all ranks.

    Collective: yes.

    Raises:
        LopeError: on every rank together if it is no number; the rank at fault tells the cause.
    """
    bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
    flags = [0.0] * world.size
    flags[world.rank] = float(bool(bad))
    loss, *flags = world.sum([sum(values), *flags])
    guilty = [rank for rank, flag in enumerate(flags) if flag]
    if bad:
        ids = [i for index in bad for i in batches[index].example_ids]
        raise LopeError(
            f"Step {step}, rank {world.rank}: the loss is {values[bad[0]]}; examples {ids}. "
            "Lower the learning rate, or look at these examples."
        )
    if guilty:
        raise LopeError(f"Step {step}: the loss is not finite on rank {guilty[0]}; see its log.")
    return loss
