"""A stage's loss where it is not the plain cross-entropy: what each target token adds to it.

Whatever depends on several tokens is decided example by example. So neither ranks nor
micro-batches nor packing change it, beside the rounding of the losses that are compared.

Shapes: P target tokens of a micro-batch, N its examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lope_dist.config.loss import (
    CrossEntropyConfig,
    GeneralizedConfig,
    LabelSmoothingConfig,
    LossConfig,
    MixtureConfig,
    TruncatedConfig,
)
from lope_dist.corpus.feed.batches import MicroBatch, sent
from lope_dist.model.loss_head import Targets
from lope_dist.train.objective import targets_of


class StageLoss:
    """The loss of a stage.

    Args:
        config: `train.stages.<name>.loss`.
        shift: Position t predicts label t + 1.
    """

    def __init__(self, config: LossConfig, *, shift: bool) -> None:
        self._config, self._shift = config, shift

    @property
    def is_plain(self) -> bool:
        """Whether it is the cross-entropy."""
        return isinstance(self._config, CrossEntropyConfig)

    @property
    def needs_base(self) -> bool:
        """Whether the base model's losses decide."""
        return isinstance(self._config, TruncatedConfig) and self._config.by == "base"

    def weight(self, batches: Sequence[MicroBatch]) -> float:
        """Return what these micro-batches add to the divisor of the step's loss.

        It is known before the forward pass: the number of tokens that the loss is taken of. Weights
        of rows are no part of it, so that a row of half the weight counts half in any batch.
        """
        if not isinstance(self._config, TruncatedConfig):
            return float(sum(batch.num_target_tokens for batch in batches))
        return float(sum(self._num_kept(batch) for batch in batches))

    def terms(
        self,
        batch: MicroBatch,
        targets: Targets,
        base_P: Tensor | None,
        of_pass: Tensor | None = None,
    ) -> StageTerms | None:
        """Return what the loss makes of a micro-batch's tokens, None where it is their sum.

        Args:
            batch: The micro-batch; a token and what predicts it have the weight of one example.
            targets: Its target tokens, or some of them.
            base_P: The base model's loss of each target token, where `needs_base`.
            of_pass: Another factor on what each position predicts, (N, T).
        """
        given = [weights for weights in (batch.weights, of_pass) if weights is not None]
        if self.is_plain and not given:
            return None
        weights_P = None
        if given:
            of_each = [weights.flatten()[targets.positions_P] for weights in given]
            weights_P = torch.stack(of_each).prod(0)
        examples_P = None
        if isinstance(self._config, TruncatedConfig):
            examples_P = examples_of(batch)[targets.positions_P]
        return StageTerms(self._config, examples_P, base_P, weights_P)

    def _num_kept(self, batch: MicroBatch) -> int:
        assert isinstance(self._config, TruncatedConfig)
        positions_P = targets_of(batch.labels, self._shift).positions_P
        counts_N = torch.bincount(examples_of(batch)[positions_P])
        return int((counts_N - num_hardest(counts_N, self._config.share)).sum())


@dataclass(frozen=True)
class StageTerms:
    """A `TokenTerms` of one micro-batch."""

    config: LossConfig
    examples_P: Tensor | None
    """The example of each target token, from 0, where that matters."""
    base_P: Tensor | None
    """The base model's losses, where they decide."""
    weights_P: Tensor | None = None
    """The weight of each target token's example, where they differ from 1."""

    @property
    def smoothing(self) -> float:
        """Share of each target that is spread over the vocabulary."""
        config = self.config
        return config.smoothing if isinstance(config, LabelSmoothingConfig) else 0.0

    def sum(self, losses_P: Tensor) -> Tensor:
        """Return the summed loss; weights are its factors, and choose no token."""
        losses_P = self._of_each(losses_P)
        if self.weights_P is not None:
            losses_P = losses_P * sent(self.weights_P, losses_P.device)
        return losses_P.sum()

    def _of_each(self, losses_P: Tensor) -> Tensor:
        config = self.config
        if isinstance(config, GeneralizedConfig):
            return generalized(losses_P, config.q)
        if isinstance(config, MixtureConfig):
            return mixture(losses_P, config.prior, config.noise_loss)
        if isinstance(config, TruncatedConfig):
            assert self.examples_P is not None
            by_P = losses_P.detach() if self.base_P is None else self.base_P
            is_hard_P = hardest(by_P, sent(self.examples_P, by_P.device), config.share)
            return losses_P.masked_fill(is_hard_P, 0.0)
        return losses_P


def generalized(losses_P: Tensor, q: float) -> Tensor:
    """Return `(1 - p^q) / q` of tokens whose cross-entropy, `-log p`, is given."""
    return (1 - torch.exp(-q * losses_P)) / q  # not expm1: its gradient is 0 where p is small


def mixture(losses_P: Tensor, prior: float, noise_loss: float) -> Tensor:
    """Return `-log((1 - prior) p + prior e^-noise_loss)` of tokens with cross-entropy `-log p`."""
    clean_P = losses_P - math.log1p(-prior)
    noise = losses_P.new_full((), noise_loss - math.log(prior))
    return -torch.logaddexp(-clean_P, -noise)


def hardest(losses_P: Tensor, examples_P: Tensor, share: float) -> Tensor:
    """Return which tokens are among the share of their example that has the highest losses.

    Shapes: (P,), int64 (P,) -> bool (P,).
    """
    if not len(losses_P):
        return losses_P.bool()
    order_P = losses_P.argsort(descending=True, stable=True)
    order_P = order_P[examples_P[order_P].argsort(stable=True)]  # by example, the hardest first
    counts_N = torch.bincount(examples_P)
    starts_N = counts_N.cumsum(0) - counts_N
    sorted_P = examples_P[order_P]
    places_P = torch.arange(len(order_P), device=losses_P.device) - starts_N[sorted_P]
    is_hard_P = torch.empty_like(losses_P, dtype=torch.bool)
    is_hard_P[order_P] = places_P < num_hardest(counts_N, share)[sorted_P]
    return is_hard_P


def num_hardest(counts_N: Tensor, share: float) -> Tensor:
    """Return how many tokens a share is, of examples with so many; rounded down."""
    return (counts_N.double() * share).floor().long()


def examples_of(batch: MicroBatch) -> Tensor:
    """Return the number, from 0, of the example that each place of the labels belongs to.

    Padding that fills up a packed row counts as one more example, without targets.

    Shapes: int64 (N T,).
    """
    places_NT = batch.inputs.get("position_ids")
    if places_NT is None:
        return torch.arange(len(batch.labels)).repeat_interleave(batch.labels.shape[1])
    return (places_NT == 0).flatten().long().cumsum(0) - 1
