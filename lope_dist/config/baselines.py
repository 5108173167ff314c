"""`adapter` for the baselines that peft implements: AdaLoRA, P-Tuning, prefix tuning.

Their defaults are what reproduces the parameter counts of the paper's table 1 on LLaMA2-7B.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Tag, model_validator

from lope_dist.config.adapter import AdapterConfig, CompensationConfig, InitialConfig
from lope_dist.config.base import by_kind


class _WithoutExperts(InitialConfig):
    """What is asked of every adapter, answered for one that has no experts."""

    num_normal: ClassVar[int] = 0
    num_poison: ClassVar[int] = 0
    has_router: ClassVar[bool] = False
    compensation: ClassVar[CompensationConfig] = CompensationConfig(mode="none")


class AdaLoraConfig(_WithoutExperts):
    """AdaLoRA (arXiv 2303.10512): singular triplets, the least important ones pruned in training.

    One stage trains it. Ranks are whole at first, then cut at intervals, cubically, and at last
    left as they are.
    """

    kind: Literal["adalora"] = "adalora"
    """The adapter's family."""
    target_rank: int = Field(default=2, ge=1)
    """Mean rank of a layer in the end."""
    initial_rank: int = Field(default=3, ge=2)
    """Rank of every layer at first; what is trained and counted."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """The adapter's output is scaled by `lora_alpha / initial_rank`."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    initial_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps before the first cut."""
    final_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of the steps after the last cut."""
    allocate_every_steps: int = Field(default=10, ge=1)
    """Optimizer steps from one cut to the next."""
    orthogonality: float = Field(default=0.5, ge=0)
    """Weight of the regulariser, the mean over matrices of `|P^T P - I|`, beside the loss."""
    targets: tuple[str, ...] = ()
    """Linear layers to adapt, as for `lope`."""

    @model_validator(mode="after")
    def _there_is_something_to_cut(self) -> AdaLoraConfig:
        if self.initial_rank <= self.target_rank:
            raise ValueError(
                f"initial_rank = {self.initial_rank} leaves nothing to prune to target_rank = "
                f"{self.target_rank}: it must be larger"
            )
        if self.initial_share + self.final_share >= 1:
            raise ValueError(
                f"initial_share = {self.initial_share} and final_share = {self.final_share} leave "
                "no step to cut ranks in: together they must be below 1"
            )
        return self


class _Prompt(_WithoutExperts):
    """Virtual tokens before the sequence; the model itself stays as it is."""

    targets: ClassVar[tuple[str, ...]] = ("*",)  # no family need tell which layers
    num_virtual_tokens: int = Field(default=20, ge=1)
    """Virtual tokens before the sequence."""


class PTuningConfig(_Prompt):
    """P-Tuning (arXiv 2103.10385): embeddings of virtual tokens, through an encoder.

    Needs `data.packing=false`.
    """

    kind: Literal["p_tuning"] = "p_tuning"
    """The adapter's family."""
    num_virtual_tokens: int = Field(default=40, ge=1)
    """Virtual tokens before the sequence."""
    encoder: Literal["lstm", "mlp"] = "lstm"
    """Encoder of the virtual tokens: a two-layer bidirectional LSTM and an MLP, as in the
    publication, or only an MLP."""
    encoder_hidden_size: int = Field(default=256, ge=1)
    """The encoder's width."""


class PrefixTuningConfig(_Prompt):
    """Prefix tuning (arXiv 2101.00190): keys and values of virtual tokens, in every layer.

    Needs `data.packing=false` and `model.gradient_checkpointing=false`.
    """

    kind: Literal["prefix_tuning"] = "prefix_tuning"
    """The adapter's family."""


PromptConfig = PTuningConfig | PrefixTuningConfig
BaselineConfig = AdaLoraConfig | PTuningConfig | PrefixTuningConfig


AnyAdapterConfig = Annotated[
    Annotated[AdapterConfig, Tag("lope")]
    | Annotated[AdaLoraConfig, Tag("adalora")]
    | Annotated[PTuningConfig, Tag("p_tuning")]
    | Annotated[PrefixTuningConfig, Tag("prefix_tuning")],
    by_kind("lope"),
]
"""The section `adapter`, chosen by its `kind`; without one it is LoPE's."""
