"""`adapter`: the LoPE layer's shape and what inference makes of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lope_dist.config.base import Section


class CompensationConfig(Section):
    """DyCompEnSate (paper, section 3.3): weights of the remaining experts at inference."""

    mode: Literal["conserve", "unit", "constant", "renormalize", "none"] = "none"
    """`none`: `w`, plain masking, which had the lower loss in every study here. The others, with
    `theta = cos(y_i, y_D)`, give each compensated expert the weight
    `conserve`: `w (1 + theta) / beta`, beta such that all weights sum to 1;
    `unit`: `w (1 + theta)`; `constant`: `w (1 + theta) / beta` with the `beta` given below;
    `renormalize`: `w / (sum of the unmasked weights)`, no theta."""
    top_k: int | None = Field(default=None, ge=0)
    """Number of normal experts that are compensated: those with the largest router weights for each
    token (the paper's K). Default: all. 0 is plain masking. Not with mode `none`."""
    beta: float | None = Field(default=None, gt=0)
    """The divisor of mode `constant`."""

    @model_validator(mode="after")
    def _beta_belongs_to_constant(self) -> CompensationConfig:
        if (self.mode == "constant") != (self.beta is not None):
            raise ValueError(
                f"beta = {self.beta} with mode = {self.mode}: beta must be given with mode "
                "'constant' and with no other"
            )
        return self

    @model_validator(mode="after")
    def _top_k_has_an_effect(self) -> CompensationConfig:
        if self.mode == "none" and self.top_k is not None:
            raise ValueError(
                f"top_k = {self.top_k} has no effect with mode = none, which compensates nothing: "
                "choose another mode, such as conserve, or leave top_k out"
            )
        return self


class InitialConfig(Section):
    """What every adapter begins with."""

    init_from: str | None = None
    """A run's folder: begin with its adapter, on this run's data. Base model, kind and shape of the
    adapter must be the same ones. A resume does not read it again."""
    init_checkpoint: str = "last"
    """Which of its checkpoints: `last`, `best`, a number of steps or a checkpoint's folder name."""

    @model_validator(mode="after")
    def _a_checkpoint_is_one_of_a_run(self) -> InitialConfig:
        if self.init_from is None and self.init_checkpoint != "last":
            raise ValueError(
                f"init_checkpoint = '{self.init_checkpoint}' has no effect without init_from, the "
                "run that it is one of; set init_from, or leave init_checkpoint out"
            )
        return self


class AdapterConfig(InitialConfig):
    """LoRA with one shared A, several experts B and a router (paper, section 3.1).

    One normal expert and no poisoning expert is plain LoRA; several normal ones and no
    poisoning expert is HydraLoRA.
    """

    kind: Literal["lope"] = "lope"
    """The adapter's family."""
    rank: int = Field(default=4, ge=1)
    """r: rows of the shared A."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """The adapter's output is scaled by `lora_alpha / rank`."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    num_normal: int = Field(default=3, ge=1)
    """Normal experts, at least one."""
    num_poison: int = Field(default=1, ge=0)
    """Poisoning experts."""
    router: Literal["rank", "input"] = "rank"
    """What the router reads: `rank`, the projection A x (LoPE); `input`, x itself (HydraLoRA)."""
    targets: tuple[str, ...] = ()
    """Linear layers to adapt: last parts of their names (`q_proj`), dotted suffixes of them,
    patterns for whole names with `*`, `?` and `[...]` (`model.layers.[0-7].*_proj`), or
    `all-linear`, all but the head and the routers of experts. Default: the model's query and
    value projections, or the fused ones."""
    compensation: CompensationConfig = CompensationConfig()
    """What masking does to the other experts' weights."""

    @property
    def num_experts(self) -> int:
        """All experts, N."""
        return self.num_normal + self.num_poison

    @property
    def has_router(self) -> bool:
        """Whether there is anything to route: a single expert always weighs 1."""
        return self.num_experts > 1

    @property
    def scaling(self) -> float:
        """The factor on the adapter's output."""
        return self.lora_alpha / self.rank

    @model_validator(mode="after")
    def _top_k_within_normal_experts(self) -> AdapterConfig:
        top_k = self.compensation.top_k
        if top_k is not None and top_k > self.num_normal:
            raise ValueError(
                f"compensation.top_k = {top_k} is larger than num_normal = {self.num_normal}: "
                f"at most {self.num_normal} experts are left to compensate"
            )
        return self
