"""The training loop of one stage. It knows no stage by name and no engine by kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from lope_dist.config.train import StageConfig
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.feed.loader import StageLoader, batches_of
from lope_dist.engine.base import Engine
from lope_dist.engine.world import World
from lope_dist.model.mask_reads import needs_masks, without_reading
from lope_dist.train.checkpoint.progress import StageProgress
from lope_dist.train.objective import summed_loss, targets_of
from lope_dist.train.run.setup import Session
from lope_dist.train.run.stop import StopRequest
from lope_dist.train.stage.drift import Drift
from lope_dist.train.stage.guard import StepGuard
from lope_dist.train.stage.metrics import MetricsLog
from lope_dist.train.stage.routing import Pass
from lope_dist.train.stage.schedule import lr_factor
from lope_dist.train.stage.stage_objective import StageObjective
from lope_dist.train.stage.step_plan import ComingStep, StepPlan

_WORKER_SHARE = 0.75
"""Of `engine.timeout_s`: a rank names its data worker before the others name the rank."""


class Ending(Enum):
    """Why no more steps of a stage are made now."""

    DONE = "done"
    """There are none."""
    ENOUGH = "enough"
    """The loss on the validation rows does not fall any more."""
    STOPPED = "stopped"
    """A rank was asked to stop."""


@dataclass(frozen=True)
class StageParts:
    """What a stage's steps are made with, the same from the first to the last."""

    config: StageConfig
    loader: StageLoader
    engine: Engine
    objective: StageObjective
    progress: StageProgress
    guard: StepGuard
    log: MetricsLog
    drift: Drift | None
    """None: the drift is not logged."""


def run_stage(
    session: Session, stage: StageParts, after_step: Callable[[], Ending | None]
) -> Ending:
    """Train one stage from its progress to its end, or to a stop that any rank asks for.

    ``after_step`` is called between steps, on every rank, with the progress moved on; what it
    returns ends the stage.
    Collective: yes.

    A step without a target on any rank changes nothing and is counted; all ranks see that alike.

    Raises:
        Diverged: a loss or a gradient that is not finite, before its step changes any weight;
            the message names step, rank and example ids.
    """
    progress = stage.progress
    peaks = {str(group.role): group.lr for group in stage.engine.groups_in_use()}
    may_be_empty = stage.config.loss_on == "corrupted"  # noise may spare a step's every answer
    for step, plan in _plans(session, stage):
        if plan.target_tokens == 0 and not may_be_empty:
            progress.empty_steps += 1
            counts = [float(session.stop.is_made), *plan.coming.counts()]
            stopping, *coming = session.world.sum(counts)
            plan.coming.note(coming)
            is_stopping = stopping > 0
        else:
            is_stopping = _step(session, stage, step, plan, peaks)
            progress.tokens += plan.tokens
        progress.next_step = step + 1
        if is_stopping:
            return Ending.STOPPED
        if progress.next_step < stage.loader.num_steps and (ending := after_step()):
            return ending
    return Ending.DONE


def _plans(session: Session, stage: StageParts) -> Iterator[tuple[int, StepPlan]]:
    """Yield each step and its plan; what is summed in a step includes the next one's counts.

    Collective: yes, once, before the first step.
    """
    loader, world = stage.loader, session.world
    made = batches_of(
        loader,
        first_step=stage.progress.next_step,
        workers=loader.workers,
        timeout_s=_WORKER_SHARE * session.config.engine.timeout_s,
    )
    coming = ComingStep(made, world, stage.objective.loss)
    coming.note(world.sum(coming.counts()))
    while (begun := coming.begin(loader)) is not None:
        yield begun


def _step(
    session: Session, stage: StageParts, step: int, plan: StepPlan, peaks: dict[str, float]
) -> bool:
    """Make one step and log it; return whether any rank was asked to stop.

    ``peaks``: each role's learning rate before the schedule. Collective: yes.
    """
    engine, objective = stage.engine, stage.objective
    auxiliary = session.context.stage.auxiliary
    stage.guard.begin_step()
    of_base = objective.of_base(engine, plan.batches)
    marks = objective.routing.marks(engine, plan.batches, step)
    losses = []
    for i, (batch, marked, base_P) in enumerate(zip(plan.batches, marks, of_base, strict=True)):
        passes = objective.routing.passes(batch, marked, step)
        parts = []
        for one in passes:
            ends = i == len(plan.batches) - 1 and one is passes[-1]
            parts.append(_micro_step(session, stage, batch, plan, ends, one, base_P))
        losses.append(torch.stack(parts).sum())
    if auxiliary is not None:
        losses += [value.to(losses[0]) for value in auxiliary.take()]
    coming = plan.coming.counts()  # drawn while the device computes
    values = torch.stack(losses).tolist()  # one wait for the device a step
    values, own_auxiliary = values[: len(plan.batches)], values[len(plan.batches) :]
    loss, is_stopping, guilty, terms, coming = _global_loss(
        values, own_auxiliary, coming, session.world, session.stop
    )
    plan.coming.note(coming)
    factor = lr_factor(stage.config, step, stage.loader.num_steps)
    grad_norm = math.nan
    if guilty is None:
        grad_norm = engine.step(factor)
    else:
        engine.discard()
    if math.isfinite(grad_norm):
        values_to_log = {
            "loss": loss,
            "lr": {role: peak * factor for role, peak in peaks.items()},
            "grad_norm": grad_norm,
            "target_tokens": plan.target_tokens,
        }
        if auxiliary is not None:
            values_to_log |= zip(auxiliary.names, terms, strict=True)
        if stage.drift is not None and stage.log.has_drift(step):
            values_to_log["drift"] = stage.drift.measure()
        stage.log.step(step, plan.tokens, values_to_log)
    elif guilty is None:
        stage.guard.bad_gradient(step, grad_norm, stage.loader.example_ids(step))
    else:
        ids = stage.loader.example_ids(step)
        stage.guard.bad_loss(step, guilty, values, plan.batches, ids)
    return is_stopping


def _micro_step(
    session: Session,
    stage: StageParts,
    batch: MicroBatch,
    plan: StepPlan,
    is_last: bool,
    one: Pass,
    base_P: torch.Tensor | None,
) -> torch.Tensor:
    """Run one pass of a micro-batch; return its part of the step's loss."""
    engine, objective, device = stage.engine, stage.objective, session.world.device
    targets = targets_of(one.labels, objective.shift)
    terms = objective.loss.terms(batch, targets, base_P, one.weights)
    if (auxiliary := session.context.stage.auxiliary) is not None:
        batch_tokens = int(batch.noise_mask.sum())
        auxiliary.begin(batch_tokens, plan.read_tokens, engine.gradient_scale)
    makes_masks = needs_masks(batch.inputs)
    batch = batch.to(device)
    session.context.begin_batch(one.of(batch))
    with without_reading(makes_masks):
        loss = summed_loss(
            lambda: engine.forward(batch.inputs), objective.head, targets, device, terms
        )
    loss = loss / (plan.loss_weight or 1.0)
    engine.backward(loss, is_last)
    return loss.detach()


def _global_loss(
    values: Sequence[float],
    terms: Sequence[float],
    coming: Sequence[float],
    world: World,
    stop: StopRequest,
) -> tuple[float, bool, int | None, list[float], list[float]]:
    """Return the step's loss over all ranks, and what else every rank must know of the others.

    That is whether any was asked to stop, the first whose loss is no finite number, the
    auxiliary losses' ``terms``, and the counts of the ``coming`` step: one sum for all of it.
    Collective: yes.
    """
    flags = [0.0] * world.size
    flags[world.rank] = float(not all(map(math.isfinite, values)))
    summed = [sum(values), float(stop.is_made), *terms, *flags, *coming]
    loss, stopping, *rest = world.sum(summed)
    ends = len(terms), len(terms) + world.size
    terms, flags, coming = rest[: ends[0]], rest[ends[0] : ends[1]], rest[ends[1] :]
    guilty = next((rank for rank, flag in enumerate(flags) if flag), None)
    return loss, stopping > 0, guilty, terms, coming
