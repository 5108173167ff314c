"""What a stage minimizes: of which tokens, by which loss, and who learns from each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.engine.base import Engine
from lope_dist.model.loss_head import LossHead
from lope_dist.train.stage.model_losses import ModelLosses
from lope_dist.train.stage.robust_loss import StageLoss
from lope_dist.train.stage.routing import Routing


@dataclass(frozen=True)
class StageObjective:
    """The same for all steps of a stage."""

    shift: bool
    """Position t predicts label t + 1."""
    head: LossHead | None
    """See `objective.summed_loss`."""
    loss: StageLoss
    routing: Routing
    base_losses: ModelLosses | None = None
    """What takes the base model's losses, where the loss needs them."""

    def of_base(self, engine: Engine, batches: Sequence[MicroBatch]) -> Sequence[Tensor | None]:
        """Return the base model's loss of each target token of a step. Collective: yes."""
        if self.base_losses is None:
            return [None] * len(batches)
        return self.base_losses.take(engine, batches)
