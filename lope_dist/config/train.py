"""`train`: batches, stages and their optimizer groups."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lope_dist.config.base import Section
from lope_dist.config.loss import CrossEntropyConfig, LossConfig
from lope_dist.config.validation import AdaptedAnswer, EarlyStoppingConfig, EvaluateConfig
from lope_dist.core.roles import ADAPTER_ROLES, Role

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class GroupConfig(Section):
    """Optimizer settings of one role. The defaults are those of the stage."""

    lr: float | None = Field(default=None, ge=0)
    """Peak learning rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled weight decay (AdamW)."""


class StageConfig(Section):
    """One pass of training with one set of trainable roles. A stage is data, not code."""

    noise: Literal["none", "text", "embedding", "hybrid"] = "none"
    """Injected noise: none, discrete, continuous, or both (HyNoIse)."""
    trainable: tuple[Role, ...] = Field(min_length=1)
    """Roles that train; all other parameters are frozen and stay in the forward pass."""
    lr: float = Field(default=2e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay (AdamW)."""
    groups: dict[Role, GroupConfig] = Field(default_factory=dict)
    """Settings of single roles."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the data."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to 0 at the last step."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps over which the learning rate rises linearly."""
    loss: LossConfig = CrossEntropyConfig()
    """What is minimized; `docs/robust_losses.md`."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential average of the trained weights. The average is validated, saved and
    used by the next stage; see `docs/robust_losses.md`. `null`: none."""
    loss_on: Literal["all", "corrupted"] = "all"
    """Target tokens of the loss: all, or only tokens of words that the injected noise or
    `noise.data` changed."""
    gradient_routing: bool | Literal["detected"] = False
    """Only the poisoning experts learn at tokens whose next token is marked, and only the normal
    experts elsewhere; see `docs/past_the_paper.md`. `true` marks tokens changed by noise.
    `detected` also marks the targets with the highest loss of the masked model."""
    detected_share: float | None = Field(default=None, gt=0, lt=1)
    """With `detected`: the share of each example's target tokens, rounded down; with `soft_routing`
    how likely a target is noise before its losses are known. Default: 0.2."""
    strict_routing: bool = False
    """With routed gradients: the others, A and the router learn nothing from marked targets, nor
    the poisoning experts from the rest; it takes two passes of each micro-batch."""
    soft_routing: bool = False
    """With strict routing of what is detected: after a quarter of the stage's steps, targets are
    divided between both passes by how likely they are noise, in place of marks."""
    poison_dropout: float = Field(default=0.0, ge=0, le=1)
    """With strict routing: in which share of the steps the pass of the unmarked targets is made
    without the poisoning experts, as a masked model answers."""
    poison_scale: float = Field(default=1.0, ge=0)
    """Factor on the poisoning experts' weights while the stage trains: above 1 they take more of
    the noise from the experts that learn, at 0 they are left out; `docs/past_the_paper.md`."""

    @property
    def uses_marks(self) -> bool:
        """Whether the stage needs the marks of tokens that noise changed."""
        return self.loss_on == "corrupted" or bool(self.gradient_routing)

    @property
    def share_detected(self) -> float:
        """`detected_share`, or what stands for it."""
        return 0.2 if self.detected_share is None else self.detected_share

    @field_validator("trainable")
    @classmethod
    def _only_adapter_roles(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        allowed = ", ".join(ADAPTER_ROLES)
        if Role.BASE in roles:
            raise ValueError(f"the base model is never trained; allowed roles: {allowed}")
        if len(set(roles)) != len(roles):
            raise ValueError(f"a role is listed twice in {[str(r) for r in roles]}")
        return roles


def default_stages(num_normal: int, num_poison: int) -> dict[str, StageConfig]:
    """Return the paper's stages (section 3.2) as far as the adapter has what they train.

    Without a poisoning expert Stage II alone is left (LoRA, HydraLoRA).
    """
    router = (Role.ROUTER,) if num_normal + num_poison > 1 else ()
    finetune = StageConfig(trainable=(Role.SHARED_A, Role.NORMAL_B, *router))
    if num_poison == 0:
        return {"finetune": finetune}
    poison = StageConfig(noise="hybrid", trainable=(Role.SHARED_A, Role.POISON_B))
    return {"poison": poison, "finetune": finetune}


def baseline_stages() -> dict[str, StageConfig]:
    """Return the one stage of an adapter that has no experts."""
    return {"finetune": StageConfig(trainable=(Role.ADAPTER,))}


class OptimizerConfig(Section):
    """AdamW."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip the gradient's global norm to this; 0 does not clip."""


class CheckpointConfig(Section):
    """Checkpoints in the middle of a stage, to resume from; those at its end are always kept."""

    every_steps: int | None = Field(default=50, ge=1)
    """Optimizer steps from one to the next. `null`: none but at a stage's end and on a signal."""
    keep_last: int = Field(default=2, ge=1)
    """How many of them are kept; an older one goes once a newer one is whole."""


class TrackingConfig(Section):
    """What a run is called where its trackers keep it."""

    project: str = "lope_dist"
    """Project (W&B, trackio) or experiment (MLflow)."""
    name: str | None = None
    """The run's name; default the last part of `output_dir`."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""


class TrainConfig(Section):
    """The training run."""

    global_batch: int = Field(default=32, ge=1)
    """Examples of one optimizer step, over all ranks: the loss does not depend on the split."""
    micro_batch: int = Field(default=4, ge=1)
    """Rows of one forward pass of one rank."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer, fresh in each stage."""
    stages: dict[str, StageConfig] = Field(min_length=1)
    """Stages by name, in order. Default: the paper's `poison` and `finetune`, or only `finetune`
    without a poisoning expert."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When a stage is saved before its end."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The loss on `data.validation`."""
    keep_best: AdaptedAnswer | None = None
    """A row of experts. The checkpoint with its lowest loss on `data.validation` is saved as the
    best one, named in `state.json`, and never removed. `lope eval --checkpoint best` takes it."""
    early_stopping: EarlyStoppingConfig | None = None
    """When a stage ends before its last step; needs `train.evaluate.every_steps`. `null`: never."""
    max_skipped_steps: int = Field(default=0, ge=0)
    """How many steps of a stage may be skipped because their loss or gradient is not finite; one
    more ends the run. The checkpoint's `state.json` lists them with their examples."""
    log_every_steps: int = Field(default=1, ge=1)
    """Steps from one line of `metrics.jsonl` to the next."""
    log_every_seconds: float = Field(default=30.0, ge=0)
    """Seconds from one line to the next in `logs/`, and on a console that is not a terminal. The
    first and the last step of a stage always have a line."""
    trackers: tuple[TrackerName, ...] = ()
    """Trackers that receive the figures of `metrics.jsonl`. Each needs the extra of its name. If
    one fails, the run names it once and continues without it."""
    tracking: TrackingConfig = TrackingConfig()
    """What the run is called there."""

    @model_validator(mode="before")
    @classmethod
    def _tensorboard_was_a_switch(cls, values: Any) -> Any:
        """Read `tensorboard: true` of runs that were made before there were several trackers."""
        if isinstance(values, dict) and "tensorboard" in values:
            values = dict(values)
            if values.pop("tensorboard"):
                values["trackers"] = [*values.get("trackers", ()), "tensorboard"]
        return values

    @field_validator("stages")
    @classmethod
    def _names_can_name_folders(cls, stages: dict[str, StageConfig]) -> dict[str, StageConfig]:
        for name in stages:
            if not name or any(mark in name for mark in "/\\\0"):
                raise ValueError(
                    f"a stage's name also names its checkpoint's folder, which {name!r} cannot"
                )
            if re.search(r"-step-\d+$", name):
                raise ValueError(
                    f"a stage's name must not end like that of a checkpoint in the middle of a "
                    f"stage, which {name!r} does"
                )
        return stages
