"""What the loss on the validation rows decides of a stage: when it is taken, saved, enough."""

from __future__ import annotations

import time

from lope_dist.config.validation import is_trained
from lope_dist.core.console import tell
from lope_dist.engine.base import Engine
from lope_dist.train.checkpoint.choice import best_point
from lope_dist.train.checkpoint.progress import RunProgress
from lope_dist.train.checkpoint.validation import Point
from lope_dist.train.run.setup import Session
from lope_dist.train.stage.loop import Ending
from lope_dist.train.stage.metrics import MetricsLog
from lope_dist.train.stage.validate import Validator


class Watch:
    """One stage's evaluations. Without rows to validate on there is none, and nothing follows.

    Args:
        session: The run.
        progress: How far it is; its `validation` is added to.
        stage: The stage's name.
    """

    def __init__(self, session: Session, progress: RunProgress, stage: str) -> None:
        self._session, self._progress, self._stage = session, progress, stage
        self._validator = None if session.validation is None else Validator(session)
        if self._validator is not None:
            progress.validation.on(self._validator.fingerprint)
        rule, row = session.config.train.early_stopping, session.config.watched
        if rule is not None and progress.stage.next_step:
            after = progress.stage.patience_from
            stale = progress.validation.stale(row, progress.index, rule.min_delta, after)
            if stale >= rule.patience:  # it had ended here, and was extended
                progress.stage.patience_from = progress.stage.next_step

    def after_step(self, engine: Engine, log: MetricsLog) -> Ending | None:
        """Take the loss if it is due and was not taken; return what that makes of the stage.

        Collective: yes.
        """
        every = self._session.config.train.evaluate.every_steps
        step = self._progress.stage.next_step
        if every is None or step == 0 or step % every or self._point() is not None:
            return None
        if not self.at_end(engine, log):
            return Ending.STOPPED
        return Ending.ENOUGH if self._is_enough() else None

    def at_end(self, engine: Engine, log: MetricsLog) -> bool:
        """Take the loss if it was not taken here; return False where a stop came between.

        Collective: yes.
        """
        if self._validator is None or self._point() is not None:
            return True
        progress, since = self._progress, time.perf_counter()
        measured = self._validator.measure(engine, progress.validation.base())
        if measured is None:
            return False
        step = progress.stage.next_step
        point = Point(self._stage, progress.index, step, measured.losses)
        progress.validation.points.append(point)
        seconds = time.perf_counter() - since
        log.validation(step - 1, measured, self._validator.num_examples, seconds)
        return True

    @property
    def best(self) -> Point | None:
        """The evaluation by which `train.keep_best` chooses."""
        return best_point(self._session.config, self._progress.validation)

    @property
    def is_best(self) -> bool:
        """Whether the step that was just made is the best one."""
        best = self.best
        return best is not None and best == self._point()

    def _is_enough(self) -> bool:
        """Return whether `train.early_stopping` ends the stage here; the main rank says so."""
        config, progress = self._session.config, self._progress
        rule, row, point = config.train.early_stopping, config.watched, self._point()
        if rule is None or point is None:
            return False
        if not is_trained(row, config.train.stages[self._stage].trainable):
            return False
        stale = progress.validation.stale(
            row, progress.index, rule.min_delta, progress.stage.patience_from
        )
        if stale < rule.patience:
            return False
        if self._session.world.is_main:
            tell(
                f"Stage {self._stage} ends after step {point.step}: the validation loss of '{row}' "
                f"did not improve in {stale} evaluations (train.early_stopping)."
            )
        return True

    def _point(self) -> Point | None:
        return self._progress.validation.at(self._progress.index, self._progress.stage.next_step)
