"""What the adapter layers and the embedding noise must know about the current batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lope_dist.adapters.auxiliary import AuxiliaryLosses
from lope_dist.config.adapter import CompensationConfig
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.core.errors import LopeError, suggest

Experts = Literal["all", "masked", "masked_normal", "none"]
"""`all`: every expert. `masked`: without the poisoning experts, the others compensated.
`masked_normal`: a control, without `normal_0` instead, the others' weights as they are. `none`: the
base model."""


class AdapterContext:
    """One mutable object a model, read by all of its adapter layers.

    Whoever drives the model sets it before each forward pass and leaves it alone until the
    backward pass is over: activation checkpointing and dropout read it again in backward.
    """

    compensation: CompensationConfig
    """How the remaining experts are weighed when the poisoning ones are masked."""
    scale: float
    """Factor on the adapter's output, for inference; 0 is the base model."""
    poison_scale: float
    """Factor on the poisoning experts' weights while all experts answer; 0 masks them without
    compensation, and below 0 the answer is pushed away from what they have learnt."""
    token_keys: dict[str, Tensor]
    """Stream (`decoder`, `encoder`) -> int32 (N, T) keys of `core.seeds.token_keys`."""
    noise_mask: Tensor | None
    """(N, T), 1 on real tokens and 0 on padding, of the stream `noise_stream`."""
    noise_stream: str
    """The stream whose embeddings are noised: the encoder's where there is one."""
    embedding_noise: EmbeddingNoiseConfig | None
    """Continuous noise of this stage; None is off."""
    corrupted_mask: Tensor | None
    """bool (N, T), as `noise_mask`: the tokens of words that noise changed; None: not known."""
    corrupted_targets: Tensor | None
    """bool (N, T), as `noise_mask`: the tokens that predict a marked one. While the model trains,
    the poisoning experts learn from these alone, and the normal ones from the others."""
    routes_strictly: bool
    """A and the router learn as the normal experts do."""
    auxiliary: AuxiliaryLosses | None
    """Losses that the layers add while the model trains; None: none."""
    collect_router: bool
    """Add up the router's weights for `RouterUsage`."""

    def __init__(
        self,
        *,
        num_normal: int,
        num_poison: int,
        compensation: CompensationConfig,
        noise_stream: str = "decoder",
    ) -> None:
        self._num_normal = num_normal
        self._num_poison = num_poison
        self._experts: Experts = "all"
        self.compensation = compensation
        self.scale = 1.0
        self.poison_scale = 1.0
        self.token_keys = {}
        self.noise_mask = None
        self.noise_stream = noise_stream
        self.embedding_noise = None
        self.corrupted_mask = None
        self.corrupted_targets = None
        self.routes_strictly = False
        self.auxiliary = None
        self.collect_router = False
        self._usage_marks: dict[str, tuple[Tensor | None, Tensor | None, Tensor]] = {}
        self.is_purified = False
        """The poisoning experts are gone for good: `all` would not be what was trained."""

    @property
    def experts(self) -> Experts:
        """Which experts take part."""
        return self._experts

    @experts.setter
    def experts(self, experts: Experts) -> None:
        """Choose the experts.

        Raises:
            LopeError: an unknown choice, or one that needs experts that are not there.
        """
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
        if experts in ("all", "masked_normal") and self.is_purified:
            raise LopeError(
                f"experts = '{experts}': this adapter is purified, its poisoning expert was "
                "removed when it was exported; use experts = 'masked', or the run that it was "
                "exported from."
            )
        self._experts = experts

    def as_rows(self, stream: str, x: Tensor) -> Tensor:
        """Return what a layer is called with as rows of tokens, (N, T, ...).

        Some models hand a layer all tokens of a batch in one row, or rows as of one head.
        """
        keys_NT = self.token_keys.get(stream)
        if keys_NT is None or keys_NT.shape == x.shape[:-1]:
            return x  # itself, no view: the layer may write into its own output
        if keys_NT.numel() == x.shape[:-1].numel():
            return x.reshape(*keys_NT.shape, x.shape[-1])
        return x

    def usage_marks(self, stream: str, of: Tensor) -> tuple[Tensor, bool]:
        """Return with what a stream's tokens count for the router's usage, and if marks are known.

        Made once for all layers of a micro-batch.

        Args:
            stream: The stream that the layer reads.
            of: What is to be counted, (P, ...).

        Shapes: float32 (2, P), at real tokens 1, and at corrupted ones; other streams have no marks
        and count all tokens.
        """
        has_mask = self.noise_mask is not None and stream == self.noise_stream
        real, corrupted = (self.noise_mask, self.corrupted_mask) if has_mask else (None, None)
        made = self._usage_marks.get(stream)
        if (
            made is None
            or made[0] is not real
            or made[1] is not corrupted
            or (made[2].shape[1] != of.shape[0] or made[2].device != of.device)
        ):
            marks_2P = torch.zeros(2, of.shape[0], device=of.device)
            marks_2P[0] = 1.0 if real is None else real.flatten()
            if corrupted is not None:
                marks_2P[1] = corrupted.flatten()
            made = self._usage_marks[stream] = real, corrupted, marks_2P
        return made[2], corrupted is not None

    def dropout_keys(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return the keys of a stream's tokens, from which a layer that reads it draws dropout.

        Shapes: int32 ``shape``, (N, T).

        Raises:
            LopeError: there are none, or of other tokens.
        """
        keys_NT = self.token_keys.get(stream)
        if keys_NT is None or keys_NT.shape != torch.Size(shape):
            given = "none" if keys_NT is None else f"keys of shape {tuple(keys_NT.shape)}"
            raise LopeError(
                f"Dropout of an adapter in the {stream} needs one key for each token: "
                f"context.token_keys['{stream}'] of shape {tuple(shape)}, and there are {given}; "
                "set them before each training forward, call model.eval(), or set "
                "adapter.dropout=0."
            )
        return keys_NT
