"""`train.stages.<name>.loss`: what is minimized of the target tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from lope_dist.config.base import Section, by_kind


class CrossEntropyConfig(Section):
    """The usual loss: every target token counts alike."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    """The loss."""


class TruncatedConfig(Section):
    """Cross-entropy without the target tokens that have the highest loss in their example.

    Loss truncation (arXiv 2004.14589), by the token; the mean is over the tokens that are left.
    """

    kind: Literal["truncated"] = "truncated"
    """The loss."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """Of each example's target tokens, rounded down."""
    by: Literal["model", "base"] = "model"
    """Whose loss: that of the model as it is trained, or the base model's, which costs one more
    forward pass."""


class GeneralizedConfig(Section):
    """Generalized cross-entropy (arXiv 1805.07836): `(1 - p^q) / q` of each target token.

    Its gradient is the cross-entropy's times `p^q`: what the model finds unlikely counts less.
    """

    kind: Literal["generalized"] = "generalized"
    """The loss."""
    q: float = Field(default=0.5, gt=0, le=1)
    """Towards 0 it is the cross-entropy; 1 is the mean absolute error."""


class MixtureConfig(Section):
    """Targets as a mixture of what the model says and of noise that finds each of them as unlikely.

    `-log((1 - prior) p + prior e^-noise_loss)` of each target token: the contamination model of
    robust statistics. Its gradient is the cross-entropy's times how likely the target is clean.
    """

    kind: Literal["mixture"] = "mixture"
    """The loss."""
    prior: float = Field(default=0.2, gt=0, lt=1)
    """How likely a target is noise, before the model is asked."""
    noise_loss: float = Field(default=6.0, gt=0)
    """The cross-entropy of any token under the noise, in nats."""


class LabelSmoothingConfig(Section):
    """Cross-entropy with a share of the target spread over the whole vocabulary."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    """The loss."""
    smoothing: float = Field(default=0.1, gt=0, lt=1)
    """That share."""


LossConfig = Annotated[
    Annotated[CrossEntropyConfig, Tag("cross_entropy")]
    | Annotated[TruncatedConfig, Tag("truncated")]
    | Annotated[GeneralizedConfig, Tag("generalized")]
    | Annotated[MixtureConfig, Tag("mixture")]
    | Annotated[LabelSmoothingConfig, Tag("label_smoothing")],
    by_kind("cross_entropy"),
]
"""The section `loss`, chosen by its `kind`."""
