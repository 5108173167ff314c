"""What a model's adapter layers read: which experts answer, the stage, the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from lope_dist.adapters.auxiliary import AuxiliaryLosses
from lope_dist.adapters.batch import BatchDescription
from lope_dist.config.adapter import CompensationConfig
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.core.errors import LopeError, suggest

Experts = Literal["all", "masked", "masked_normal", "none"]
"""`all`: every expert. `masked`: without the poisoning experts, the others compensated.
`masked_normal`: a control, without `normal_0` instead, the others' weights as they are. `none`: the
base model."""


@dataclass(frozen=True)
class Answer:
    """Which experts answer, and how."""

    experts: Experts
    compensation: CompensationConfig
    """For `masked` alone: how the remaining experts' weights are compensated."""
    scale: float = 1.0
    """Factor on the adapter's output; 0 is the base model."""
    poison_scale: float = 1.0
    """For `all` alone: factor on the poisoning experts' weights. 0 masks them without compensation,
    and below 0 the answer is pushed away from what they have learnt."""


@dataclass(frozen=True)
class StageDescription:
    """What a stage trains with. Nothing of it but `poison_scale` acts in evaluation mode."""

    embedding_noise: EmbeddingNoiseConfig | None = None
    """Continuous noise; None is off."""
    routes_strictly: bool = False
    """A and the router learn as the normal experts do."""
    poison_scale: float = 1.0
    """As in `Answer`, where no `answering` block says otherwise."""
    auxiliary: AuxiliaryLosses | None = None
    """Losses that the layers add; None: none."""
    collects_usage: bool = False
    """Add up the router's weights for `RouterUsage`."""


class AdapterContext:
    """One object a model, read by all of its adapter layers: three frozen descriptions.

    `answer` is changed for a block (`answering`), `stage` at a stage's beginning (`begin_stage`)
    and `batch` before each forward pass (`begin_batch`). It stays until the next one, for
    activation checkpointing and dropout read it again in the backward pass.
    """

    __slots__ = (
        "_answer",
        "_batch",
        "_compensation",
        "_is_purified",
        "_num_normal",
        "_num_poison",
        "_stage",
        "noise_stream",
    )

    noise_stream: str
    """The stream whose embeddings are noised: the encoder's where there is one."""

    def __init__(
        self,
        *,
        num_normal: int,
        num_poison: int,
        compensation: CompensationConfig,
        noise_stream: str = "decoder",
    ) -> None:
        self._num_normal, self._num_poison = num_normal, num_poison
        self._compensation = compensation
        self._is_purified = False
        self._answer = Answer("all", compensation)
        self._stage = StageDescription()
        self._batch = BatchDescription()
        self.noise_stream = noise_stream

    @property
    def answer(self) -> Answer:
        """Which experts answer now."""
        return self._answer

    @property
    def stage(self) -> StageDescription:
        """What the stage trains with."""
        return self._stage

    @property
    def batch(self) -> BatchDescription:
        """The micro-batch that is under way."""
        return self._batch

    @property
    def is_purified(self) -> bool:
        """The poisoning experts are gone for good: `all` would not be what was trained."""
        return self._is_purified

    def begin_stage(self, stage: StageDescription) -> None:
        """Train with this from now on; all experts answer where no block says otherwise."""
        self._stage = stage
        self._answer = Answer("all", self._compensation, poison_scale=stage.poison_scale)

    def begin_batch(self, batch: BatchDescription) -> None:
        """Describe the batch of the next forward pass, and of the backward pass behind it."""
        self._batch = batch

    @contextmanager
    def answering(self, answer: Answer | Experts) -> Iterator[None]:
        """Context in which these experts answer; those of before answer behind it, come what may.

        A word alone is that choice of experts with the adapter's own compensation.

        Raises:
            LopeError: an unknown choice, or experts that are not there.
        """
        before = self._answer
        self.answer_as(answer)
        try:
            yield
        finally:
            self._answer = before

    def answer_as(self, answer: Answer | Experts) -> None:
        """Let these experts answer from now on: for who loads a model to ask it. As `answering`."""
        if not isinstance(answer, Answer):
            answer = Answer(answer, self._compensation)
        self._check(answer.experts)
        self._answer = answer

    def purify(self) -> None:
        """Answer masked, or as the base, from now on: the poisoning experts are removed."""
        self._is_purified = True
        self.answer_as("masked")

    def _check(self, experts: str) -> None:
        allowed = get_args(Experts)
        if experts not in allowed:
            raise LopeError(
                f"experts = '{experts}' is not allowed; allowed: "
                f"{', '.join(allowed)}.{suggest(experts, allowed)}"
            )
        if experts == "masked" and self._num_poison == 0:
            raise LopeError(
                "experts = 'masked': this model has no poisoning expert to mask "
                "(adapter.num_poison is 0); use experts = 'all'."
            )
        if experts == "masked_normal" and self._num_normal < 2:
            raise LopeError(
                "experts = 'masked_normal': this model has only one normal expert "
                "(adapter.num_normal is 1); use experts = 'all'."
            )
        if experts in ("all", "masked_normal") and self._is_purified:
            raise LopeError(
                f"experts = '{experts}': this adapter is purified, its poisoning expert was "
                "removed when it was exported; use experts = 'masked', or the run that it was "
                "exported from."
            )
