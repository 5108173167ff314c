"""`train.evaluate` and `train.early_stopping`: the loss on rows that are never trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from lope_dist.config.base import Section
from lope_dist.config.baselines import AnyAdapterConfig
from lope_dist.core.roles import Role

AdaptedAnswer = Literal["masked", "masked_plain", "masked_normal", "all"]
Answer = Literal["masked", "masked_plain", "masked_normal", "all", "base"]
"""A row of experts, as `lope eval --experts` names it."""


class EvaluateConfig(Section):
    """When, and of which experts, the loss on `data.validation` is taken.

    It is taken at the end of each stage, whatever is set here.
    """

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of a stage from one evaluation to the next. `null`: at its end alone."""
    experts: tuple[Answer, ...] | None = Field(default=None, min_length=1)
    """Rows of experts, as `lope eval --experts` names them. Default: `masked`, `all` and `base`,
    as far as the adapter has them. The base model's loss is taken once."""


class EarlyStoppingConfig(Section):
    """End a stage whose loss on `data.validation` has stopped falling; the next stage follows.

    The loss is that of `train.keep_best`, else of the first of `train.evaluate.experts`. A stage
    that trains nothing of what that row answers with is not ended.
    """

    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a new least loss after which the stage ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much a loss must be below the least one so far to be a new one."""


def usual_answers(adapter: AnyAdapterConfig) -> tuple[Answer, ...]:
    """Return the rows of experts that are validated where none are named."""
    return ("masked", "all", "base") if adapter.num_poison else ("all", "base")


def absent_expert(answer: Answer, adapter: AnyAdapterConfig) -> str | None:
    """Return why an adapter has no such row of experts, None if it has."""
    if answer in ("masked", "masked_plain") and adapter.num_poison == 0:
        return f"'{answer}' masks the poisoning expert, and this adapter has none; use 'all'"
    if answer == "masked_normal" and adapter.num_normal < 2:
        return (
            f"'{answer}' leaves one of several normal experts out, and this adapter has "
            f"{adapter.num_normal}; use 'all'"
        )
    return None


def is_trained(answer: Answer, roles: Iterable[Role]) -> bool:
    """Return whether a stage that trains these roles trains what the row of experts answers with.

    While the normal experts are still zero, what is masked answers as the base model does.
    """
    if answer == "base":
        return False
    return answer == "all" or Role.NORMAL_B in roles
