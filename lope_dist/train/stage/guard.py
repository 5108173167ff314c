"""What becomes of a step whose loss or gradient is not finite: left out, or the run's end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lope_dist.adapters.usage import RouterUsage
from lope_dist.core.console import tell
from lope_dist.core.errors import Diverged
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.engine.world import World
from lope_dist.train.checkpoint.progress import StageProgress


class StepGuard:
    """Keeps count of one stage's bad steps; all ranks come to the same decision."""

    def __init__(
        self, world: World, usage: RouterUsage, progress: StageProgress, max_skipped: int
    ) -> None:
        self._world, self._usage = world, usage
        self._skipped, self._max = progress.skipped_steps, max_skipped

    def begin_step(self) -> None:
        """Remember what a bad step must not leave behind."""
        if self._max:
            self._usage.mark()

    def bad_loss(
        self,
        step: int,
        guilty: int,
        values: Sequence[float],
        batches: Sequence[MicroBatch],
        step_ids: Sequence[int],
    ) -> None:
        """Skip a step whose loss is not finite on the rank ``guilty``, or end the run.

        Collective: yes.

        Raises:
            Diverged: no more steps may be skipped.
        """
        bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
        bad_ids = {i for index in bad for i in batches[index].example_ids}
        marks = self._world.sum([float(i in bad_ids) for i in step_ids])
        ids = [i for i, mark in zip(step_ids, marks, strict=True) if mark]
        reason = f"the loss is not finite on rank {guilty}"
        sentence = f"Step {step}: {reason}; examples {ids}"
        if bad:
            rank = self._world.rank
            sentence = f"Step {step}, rank {rank}: the loss is {values[bad[0]]}; examples {ids}"
        self._skip(step, reason, ids, sentence)

    def bad_gradient(self, step: int, norm: float, ids: Sequence[int]) -> None:
        """Skip a step whose gradient is not finite, which the engine has not made, or end the run.

        Raises:
            Diverged: no more steps may be skipped.
        """
        reason = f"the gradient's norm is {norm}"
        self._skip(step, reason, list(ids), f"Step {step}: {reason}; examples {list(ids)}")

    def _skip(self, step: int, reason: str, ids: list[int], sentence: str) -> None:
        if len(self._skipped) >= self._max:
            spent = ""
            if self._max:
                spent = f" {self._max} steps of this stage were skipped before."
            raise Diverged(
                f"{sentence}. Lower the learning rate, look at these examples, or raise "
                f"train.max_skipped_steps = {self._max}.{spent}"
            )
        self._usage.roll_back()
        self._skipped.append({"step": step, "reason": reason, "examples": ids})
        if self._world.is_main:
            count = f"{len(self._skipped)} of train.max_skipped_steps = {self._max}"
            tell(f"Skipped ({count}): {sentence}.")
