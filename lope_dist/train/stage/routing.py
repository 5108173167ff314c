"""Which experts learn from which target token: the marks of a step, and its passes.

Plain routing masks gradients token by token in one pass. Strict routing takes a pass for each kind
of token, so that what reaches other tokens through attention goes its own way too::

    clean pass    loss of the unmarked targets; A, router and normal experts learn
    marked pass   loss of the marked targets; the poisoning experts alone learn

Soft routing gives each target to both passes, weighted by how likely it is noise: the model with
the poisoning experts and the masked one are a mixture, and this is the E step of its EM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lope_dist.adapters.batch import BatchDescription
from lope_dist.config.train import StageConfig
from lope_dist.core.seeds import example_rng
from lope_dist.corpus.feed.batches import MicroBatch, sent
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.engine.base import Engine
from lope_dist.train.objective import targets_of
from lope_dist.train.stage.model_losses import ModelLosses
from lope_dist.train.stage.robust_loss import examples_of, hardest

WARM_UP = 0.25
"""Of a stage's steps with soft routing: so long the hardest targets are marked."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a micro-batch."""

    labels: Tensor
    """int64 (N, T), not shifted."""
    marked: Tensor | None
    """bool (N, T): where the poisoning experts learn and the normal ones do not; None: both do."""
    leaves_out_poison: bool = False
    weights: Tensor | None = None
    """float32 (N, T): factor on the loss of what each position predicts; None: 1."""

    def of(self, batch: MicroBatch) -> BatchDescription:
        """Return what the adapters need to know of this pass of a batch, on its device."""
        marked, device = self.marked, batch.labels.device
        return replace(
            batch.description(),
            corrupted_targets=None if marked is None else sent(marked, device),
            leaves_out_poison=self.leaves_out_poison,
        )


@dataclass(frozen=True)
class Detection:
    """What finds out which targets are noise, for `gradient_routing: detected`."""

    masked: ModelLosses
    """What takes the masked model's losses."""
    unmasked: ModelLosses | None
    """What takes those with the poisoning experts, for soft routing."""
    num_steps: int
    """Of the stage."""

    def marks(
        self, engine: Engine, batches: Sequence[MicroBatch], step: int, share: float
    ) -> list[Tensor]:
        """Return of each micro-batch's positions how far what they predict is noise.

        The first steps of soft routing mark the hardest: what the poisoning experts have not yet
        learnt, they cannot tell.

        Shapes: (N, T), bool, or float32 from 0 to 1. Collective: yes.
        """
        masked = zip(batches, self.masked.take(engine, batches), strict=True)
        if self.unmasked is None or step < WARM_UP * self.num_steps:
            return [
                injected_marks(batch) | detected_marks(batch, losses_P, share)
                for batch, losses_P in masked
            ]
        unmasked = self.unmasked.take(engine, batches)
        return [
            torch.maximum(
                injected_marks(batch).float(),
                responsibilities(batch, masked_P, unmasked_P, share),
            )
            for (batch, masked_P), unmasked_P in zip(masked, unmasked, strict=True)
        ]


class Routing:
    """The passes of a stage's micro-batches.

    Args:
        stage: Its settings.
        name: Its name.
        seed: The run's.
        detection: What finds marks beside those of injected noise, if anything does.
    """

    def __init__(
        self, stage: StageConfig, name: str, seed: int, detection: Detection | None
    ) -> None:
        assert (stage.gradient_routing == "detected") == (detection is not None)
        self._stage, self._name, self._seed, self._detection = stage, name, seed, detection

    def marks(
        self, engine: Engine, batches: Sequence[MicroBatch], step: int
    ) -> Sequence[Tensor | None]:
        """Return of each micro-batch which positions predict a marked token.

        Marked are the tokens that noise changed, and where they are to be detected those that
        the masked model finds hardest in their example. On the host. Collective: yes.

        Shapes: (N, T), bool; with soft routing float32 in most steps, how likely each is noise.
        """
        if not self._stage.gradient_routing:
            return [None] * len(batches)
        if self._detection is None:
            return [injected_marks(batch) for batch in batches]
        return self._detection.marks(engine, batches, step, self._stage.share_detected)

    def passes(self, batch: MicroBatch, marked: Tensor | None, step: int) -> list[Pass]:
        """Return the passes of a micro-batch; each has the loss of its own targets."""
        if marked is None or not self._stage.strict_routing:
            return [Pass(batch.labels, marked)]
        if marked.is_floating_point():
            nowhere = torch.zeros_like(marked, dtype=torch.bool)
            leaves_out = self._is_left_out(step)
            return [
                Pass(batch.labels, nowhere, leaves_out_poison=leaves_out, weights=1 - marked),
                Pass(batch.labels, ~nowhere, weights=marked),
            ]
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


def responsibilities(
    batch: MicroBatch, masked_P: Tensor, unmasked_P: Tensor, share: float
) -> Tensor:
    """Return how likely what each position predicts is noise; 0 where it predicts no target.

    By Bayes' rule, of ``share`` as the share of noise and of what the masked model (clean) and the
    one with the poisoning experts (noise) make of each target.

    Shapes: losses in nats (P,), (P,) -> float32 (N, T).
    """
    positions_P = targets_of(batch.labels, shift=True).positions_P
    odds_P = masked_P - unmasked_P + math.log(share / (1 - share))
    noise_Q = torch.zeros(batch.labels.numel())
    noise_Q[positions_P] = torch.sigmoid(odds_P).cpu()
    return noise_Q.view_as(batch.labels)


def detected_marks(batch: MicroBatch, losses_P: Tensor, share: float) -> Tensor:
    """Return which positions predict a target among the hardest share of its example."""
    positions_P = targets_of(batch.labels, shift=True).positions_P
    marked_Q = torch.zeros(batch.labels.numel(), dtype=torch.bool)
    marked_Q[positions_P] = hardest(losses_P.cpu(), examples_of(batch)[positions_P], share)
    return marked_Q.view_as(batch.labels)
