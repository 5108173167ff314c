"""What all ranks must know of a step before it begins; it rides on the sum of the step before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.feed.loader import StageLoader
from lope_dist.engine.world import World
from lope_dist.train.stage.robust_loss import StageLoss

_NUM_COUNTS = 4  # targets, the loss's divisor, tokens, read tokens


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step as all ranks see it."""

    batches: list[MicroBatch]
    target_tokens: int
    loss_weight: float
    """What the step's loss is divided by."""
    tokens: int
    read_tokens: int
    """Real tokens of `input_ids`, as `MicroBatch.noise_mask` has them."""
    coming: ComingStep
    """The step after this one: its counts are to be summed over the ranks in this one."""


class ComingStep:
    """The step that comes next on this rank.

    Its batches are drawn while the step before is still being computed. An error in that is this
    coming step's, and raised when it would begin.
    """

    def __init__(
        self, made: Iterator[tuple[int, list[MicroBatch]]], world: World, loss: StageLoss
    ) -> None:
        self._made, self._world, self._loss = made, world, loss
        self._drawn: tuple[int, list[MicroBatch]] | None = None
        self._error: Exception | None = None
        self._totals: Sequence[float] | None = None

    @property
    def num_counts(self) -> int:
        """How many values `counts` gives."""
        return _NUM_COUNTS + self._world.size

    def counts(self) -> list[float]:
        """Draw the batches; return what this rank adds to a sum over all ranks.

        Each rank's number of micro-batches has a place of its own in it.
        """
        self._drawn = None
        try:
            self._drawn = next(self._made, None)
        except Exception as error:  # of any kind: the others wait in the step before
            self._error = error
        batches = self._drawn[1] if self._drawn else []
        lengths = [0.0] * self._world.size
        lengths[self._world.rank] = len(batches)
        return [
            sum(batch.num_target_tokens for batch in batches),
            self._loss.weight(batches),
            sum(batch.num_tokens for batch in batches),
            sum(int(batch.noise_mask.sum()) for batch in batches),
            *lengths,
        ]

    def note(self, totals: Sequence[float]) -> None:
        """Take the sums of all ranks' counts."""
        assert len(totals) == self.num_counts
        self._totals = totals

    def begin(self, loader: StageLoader) -> tuple[int, StepPlan] | None:
        """Return the step and its plan, as many micro-batches on each rank; None after the last.

        Collectives need company: a rank that has fewer gets some without content.
        """
        assert self._totals is not None, "the counts of this step were not summed"
        if self._error is not None:
            raise self._error
        if self._drawn is None:
            return None
        step, batches = self._drawn
        weight = self._totals[1]
        targets, _, tokens, read, *lengths = map(int, self._totals)
        self._totals = None
        fillers = [loader.filler() for _ in range(max(lengths) - len(batches))]
        return step, StepPlan([*batches, *fillers], targets, weight, tokens, read, self)
