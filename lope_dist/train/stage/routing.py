"""Which experts learn from which target token: the marks of a step, and its passes.

Plain routing masks gradients token by token in one pass. Strict routing takes a pass for each kind
of token, so that what reaches other tokens through attention goes its own way too::

    clean pass    loss of the unmarked targets; A, router and normal experts learn
    marked pass   loss of the marked targets; the poisoning experts alone learn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lope_dist.adapters.batch import BatchDescription
from lope_dist.config.train import StageConfig
from lope_dist.core.seeds import example_rng
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.engine.base import Engine
from lope_dist.train.objective import targets_of
from lope_dist.train.stage.model_losses import ModelLosses
from lope_dist.train.stage.robust_loss import examples_of, hardest


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a micro-batch."""

    labels: Tensor
    """int64 (N, T), not shifted."""
    marked: Tensor | None
    """bool (N, T): where the poisoning experts learn and the normal ones do not; None: both do."""
    leaves_out_poison: bool = False

    def of(self, batch: MicroBatch) -> BatchDescription:
        """Return what the adapters need to know of this pass of a batch, on its device."""
        return replace(
            batch.description(),
            corrupted_targets=None if self.marked is None else self.marked.to(batch.labels.device),
            leaves_out_poison=self.leaves_out_poison,
        )


class Routing:
    """The passes of a stage's micro-batches.

    Args:
        stage: Its settings.
        name: Its name.
        seed: The run's.
        masked: What takes the masked model's losses, for `gradient_routing: detected`.
    """

    def __init__(
        self, stage: StageConfig, name: str, seed: int, masked: ModelLosses | None
    ) -> None:
        assert (stage.gradient_routing == "detected") == (masked is not None)
        self._stage, self._name, self._seed, self._masked = stage, name, seed, masked

    def marks(self, engine: Engine, batches: Sequence[MicroBatch]) -> list[Tensor | None]:
        """Return of each micro-batch which positions predict a marked token, bool (N, T).

        Marked are the tokens that noise changed, and where they are to be detected those that
        the masked model finds hardest in their example. On the host. Collective: yes.
        """
        if not self._stage.gradient_routing:
            return [None] * len(batches)
        if self._masked is None:
            return [injected_marks(batch) for batch in batches]
        taken = zip(batches, self._masked.take(engine, batches), strict=True)
        return [
            injected_marks(batch) | detected_marks(batch, losses_P, self._stage.share_detected)
            for batch, losses_P in taken
        ]

    def passes(self, batch: MicroBatch, marked: Tensor | None, step: int) -> list[Pass]:
        """Return the passes of a micro-batch; each has the loss of its own targets."""
        if marked is None or not self._stage.strict_routing:
            return [Pass(batch.labels, marked)]
        of_label = F.pad(marked[:, :-1], (1, 0))  # position t predicts label t + 1
        return [
            Pass(
                batch.labels.masked_fill(of_label, IGNORED),
                torch.zeros_like(marked),
                leaves_out_poison=self._is_left_out(step),
            ),
            Pass(batch.labels.masked_fill(~of_label, IGNORED), torch.ones_like(marked)),
        ]

    def _is_left_out(self, step: int) -> bool:
        """Return whether the clean pass of a step is without the poisoning experts."""
        rng = example_rng(self._seed, f"poison-dropout:{self._name}", 0, step)
        return bool(rng.random() < self._stage.poison_dropout)


def injected_marks(batch: MicroBatch) -> Tensor:
    """Return which positions predict a token that noise changed."""
    if batch.corrupted_mask is None:
        return torch.zeros_like(batch.labels, dtype=torch.bool)
    return F.pad(batch.corrupted_mask[:, 1:], (0, 1))


def detected_marks(batch: MicroBatch, losses_P: Tensor, share: float) -> Tensor:
    """Return which positions predict a target among the hardest share of its example."""
    positions_P = targets_of(batch.labels, shift=True).positions_P
    marked_Q = torch.zeros(batch.labels.numel(), dtype=torch.bool)
    marked_Q[positions_P] = hardest(losses_P.cpu(), examples_of(batch)[positions_P], share)
    return marked_Q.view_as(batch.labels)
