"""The loss of each target token of a step before it is trained on, as one row of experts has it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.rows import Row
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.engine.base import Engine
from lope_dist.engine.world import World
from lope_dist.model.loss_head import LossHead
from lope_dist.train.objective import targets_of, token_losses
from lope_dist.train.stage.untouched import untouched


class ModelLosses:
    """Takes the losses of a step's tokens from the model in evaluation mode, without a gradient.

    Args:
        model: What the engine trains.
        context: Its adapters'.
        world: The ranks.
        row: Which experts answer.
        head: See `objective.summed_loss`.
        shift: Position t predicts label t + 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        context: AdapterContext,
        world: World,
        row: Row,
        head: LossHead | None,
        shift: bool,
    ) -> None:
        self._model, self._context, self._world = model, context, world
        self._row, self._head, self._shift = row, head, shift

    def take(self, engine: Engine, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return each micro-batch's losses, float32 (P,), in the order of `targets_of`.

        Between steps. Collective: yes; every rank has as many micro-batches.
        """
        with (
            untouched(self._model),
            engine.evaluating(),
            self._context.answering(self._row),
        ):
            return [self._of(engine, batch) for batch in batches]

    def _of(self, engine: Engine, batch: MicroBatch) -> Tensor:
        targets, device = targets_of(batch.labels, self._shift), self._world.device
        batch = batch.to(device)
        self._context.begin_batch(batch.description())
        return token_losses(lambda: engine.forward(batch.inputs), self._head, targets, device)
