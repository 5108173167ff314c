"""One stage of a run: its engine, its steps, and what is saved of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.rows import row_of
from lope_dist.adapters.usage import RouterUsage
from lope_dist.core.console import tell
from lope_dist.core.exits import note_progress
from lope_dist.model.loss_head import loss_head
from lope_dist.train.checkpoint.cost import CostMeter, StageCost
from lope_dist.train.checkpoint.descriptions import STATE_FORMAT
from lope_dist.train.checkpoint.folder import (
    Adapter,
    Checkpoint,
    checkpoint_at,
    load_optimizer,
)
from lope_dist.train.checkpoint.history import prune
from lope_dist.train.checkpoint.progress import RunProgress, StageProgress
from lope_dist.train.run.files import write_run_files
from lope_dist.train.run.saving import save_where_named
from lope_dist.train.run.setup import Session, auxiliary_losses, stage_engine, stage_loader
from lope_dist.train.run.tracking import steps_after, steps_before
from lope_dist.train.stage.display import StageDisplay
from lope_dist.train.stage.drift import Drift
from lope_dist.train.stage.guard import StepGuard
from lope_dist.train.stage.loop import Ending, StageParts, run_stage
from lope_dist.train.stage.metrics import MetricsLog
from lope_dist.train.stage.model_losses import ModelLosses
from lope_dist.train.stage.robust_loss import StageLoss
from lope_dist.train.stage.routing import Detection, Routing
from lope_dist.train.stage.stage_objective import StageObjective
from lope_dist.train.stage.watch import Watch


class StageRun:
    """The stage that ``progress`` has come to, on this rank.

    Collective: yes, as are its methods.

    Args:
        session: The run.
        progress: How far it is; moved on as steps are made.
        checkpoint: The checkpoint in the middle of this stage to go on from, if any.
        start: With it, the adapter as the stage began, if that is known: its drift is logged.
    """

    def __init__(
        self,
        session: Session,
        progress: RunProgress,
        checkpoint: Checkpoint | None,
        start: Mapping[str, Tensor] | None,
    ) -> None:
        self._session, self._progress = session, progress
        config, self._model = session.config, session.model
        self._name = list(config.train.stages)[progress.index - 1]
        cost = progress.cost.setdefault(self._name, StageCost())
        self._meter = CostMeter(session.world, cost)
        self._stage = config.train.stages[self._name]
        self._loader = stage_loader(session, self._stage)
        self._watch = Watch(session, progress, self._name)
        self._saved_step = None if checkpoint is None else progress.stage.next_step
        self._cut_before = progress.stage.cut_examples
        injects = self._stage.noise in ("embedding", "hybrid")
        session.context.begin_stage(
            StageDescription(
                embedding_noise=config.noise.embedding if injects else None,
                routes_strictly=self._stage.strict_routing,
                poison_scale=self._stage.poison_scale,
                auxiliary=auxiliary_losses(self._model, config.adapter),
                collects_usage=True,
            )
        )
        self._usage = RouterUsage(self._model)
        sums, corrupted = progress.stage.router_sums, progress.stage.corrupted_sums
        self._usage.restore(sums, session.world.is_main, corrupted)
        set_trainable(self._model, self._stage.trainable)
        self._model.train()
        self._engine = stage_engine(session, self._stage)
        if checkpoint is not None:
            self._engine.load_optimizer_state(load_optimizer(checkpoint))
        knows_start = checkpoint is None or start is not None
        self._drift = (
            Drift(self._engine, session.roles, session.shapes, session.world, start)
            if knows_start
            else None
        )

    def train(self) -> bool:
        """Train the stage to its end or to a stop, and save it; return whether it was a stop."""
        session, config, stage = self._session, self._session.config, self._progress.stage
        session.stop.saves = True
        log = MetricsLog(
            session.run_dir,
            self._name,
            self._loader.num_steps,
            config.train.log_every_steps,
            session.trackers,
            session.world.is_main,
            display=self._display() if session.world.is_main else None,
            is_folder_there=self._is_folder_there,
            steps_before=steps_before(session, self._progress),
        )
        guard = StepGuard(session.world, self._usage, stage, config.train.max_skipped_steps)
        shift, head = not self._model.config.is_encoder_decoder, loss_head(self._model)
        loss_of = StageLoss(self._stage.loss, shift=shift)

        def losses_as(word: str, poison_scale: float = 1.0) -> ModelLosses:
            row = replace(row_of(word, config.adapter), poison_scale=poison_scale)
            return ModelLosses(self._model, session.context, session.world, row, head, shift)

        detection = None
        if self._stage.gradient_routing == "detected":
            is_soft = self._stage.soft_routing
            detection = Detection(
                losses_as("masked"),
                losses_as("all", self._stage.poison_scale) if is_soft else None,
                self._loader.num_steps,
            )
        objective = StageObjective(
            shift,
            head,
            loss_of,
            Routing(self._stage, self._name, config.seed, detection),
            losses_as("base") if loss_of.needs_base else None,
        )
        parts = StageParts(
            config=self._stage,
            loader=self._loader,
            engine=self._engine,
            objective=objective,
            progress=stage,
            guard=guard,
            log=log,
            drift=self._drift,
        )
        ending = self._watch.after_step(self._engine, log) or run_stage(
            session, parts, lambda: self._after_step(log)
        )
        # There may be more steps done than there are: rows may have been taken away.
        is_over = ending is Ending.ENOUGH or stage.next_step >= self._loader.num_steps
        if is_over and self._watch.at_end(self._engine, log):
            self._end()
        else:
            ending = Ending.STOPPED
            if stage.next_step != self._saved_step:
                self._save_middle()
            self._engine.close()
        log.close()
        return ending is Ending.STOPPED

    def _display(self) -> StageDisplay:
        return StageDisplay(
            self._name,
            self._loader.num_steps,
            self._progress.stage.next_step,
            steps_after(self._session, self._progress),
            self._session.config.train.log_every_seconds,
        )

    def _after_step(self, log: MetricsLog) -> Ending | None:
        """Take and save what is due after a step; return what ends the stage, if anything."""
        if ending := self._watch.after_step(self._engine, log):
            return ending
        every = self._session.config.train.checkpoint.every_steps
        is_due = every is not None and self._progress.stage.next_step % every == 0
        if is_due or self._watch.is_best:
            self._save_middle()
        return None

    def _save_middle(self) -> None:
        """Save what a resume in the middle of the stage needs."""
        session, stage = self._session, self._progress.stage
        adapter = self._adapter()
        optimizer = self._engine.optimizer_state()
        stage.router_sums = self._usage.totals(session.world.sum)
        stage.corrupted_sums = self._usage.corrupted_totals(session.world.sum)
        stage.cut_examples = self._count_cut()
        checkpoint = checkpoint_at(
            session.run_dir, self._progress.index, self._name, stage.next_step
        )
        state, best = self._state(), self._watch.best
        kept = None if best is None else (best.index, best.step)

        def save() -> None:
            save_where_named(session, checkpoint, adapter, state, optimizer)
            prune(session.run_dir, checkpoint, session.config.train.checkpoint.keep_last, kept)
            if self._watch.is_best:
                write_run_files(session, checkpoint, state)

        session.world.on_main(save)
        note_progress()
        self._saved_step = stage.next_step

    def _end(self) -> None:
        """Save the stage's end, and move on to the next stage."""
        session, progress = self._session, self._progress
        adapter = self._adapter()
        optimizer = self._engine.optimizer_state()
        self._engine.close()
        self._model.eval()
        progress.stage.router_sums = self._usage.totals(session.world.sum)
        progress.stage.corrupted_sums = self._usage.corrupted_totals(session.world.sum)
        if (poison_weight := self._usage.poison_means(session.world.sum)) is not None:
            progress.poison_weight[self._name] = poison_weight
        progress.router[self._name] = self._usage.means(session.world.sum)
        progress.stage.cut_examples = num_cut = self._count_cut()
        if num_cut and session.world.is_main:
            tell(
                f"Stage {self._name}: {num_cut} examples were longer than data.max_length = "
                f"{session.config.data.max_length} tokens and cut at the end."
            )
        if progress.stage.empty_steps and session.world.is_main:
            tell(
                f"Stage {self._name}: {progress.stage.empty_steps} steps had nothing to learn and "
                "were left out."
            )
        checkpoint = checkpoint_at(session.run_dir, progress.index, self._name)
        state = self._state()

        def save() -> None:
            save_where_named(session, checkpoint, adapter, state, optimizer)
            write_run_files(session, checkpoint, state)

        session.world.on_main(save)
        note_progress()
        progress.index, progress.stage = progress.index + 1, StageProgress()

    def _is_folder_there(self) -> bool:
        """Return whether the main rank's run folder is still there; if not, ask all to stop."""
        hold = self._session.hold
        is_there = hold is None or hold.lost() is None
        if not is_there:
            self._session.stop.make()
        return is_there

    def _adapter(self) -> Adapter:
        """Gather the adapter."""
        session, stage = self._session, self._progress.stage
        stages = list(session.config.train.stages.values())[: self._progress.index]
        if stage.next_step == len(stage.skipped_steps) + stage.empty_steps:
            stages = stages[:-1]  # nothing of this one was stepped yet
        return Adapter(
            self._engine.gather(list(session.roles)),
            session.roles,
            session.shapes,
            trained={role for stage in stages for role in stage.trainable},
        )

    def _count_cut(self) -> int:
        (num_cut,) = self._session.world.sum([self._loader.num_cut])
        return self._cut_before + int(num_cut)

    def _state(self) -> dict[str, Any]:
        """Return what the checkpoint tells beside the tensors. Collective: yes."""
        session, stage = self._session, self._progress.stage
        self._meter.update(stage.next_step, stage.tokens)
        engine = session.config.engine
        zero = f"zero{engine.zero_stage}"
        return {
            "format": STATE_FORMAT,
            "status": "running",
            "stage": self._name,
            "stage_index": self._progress.index,
            "steps": self._loader.num_steps,
            "next_step": stage.next_step,
            "data_fingerprint": self._loader.fingerprint,
            "fingerprints": session.fingerprints,
            "written_by": {
                "ranks": session.world.size,
                "engine": zero if engine.kind == "deepspeed" else "local",
            },
            **self._progress.of_stage(),
        }
