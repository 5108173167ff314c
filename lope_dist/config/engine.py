"""`engine`: who runs the steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lope_dist.config.base import Section


class EngineConfig(Section):
    """How parameters, gradients and optimizer state are spread over ranks."""

    kind: Literal["deepspeed", "local"] = "deepspeed"
    """`deepspeed`: ZeRO over any number of ranks. `local`: plain PyTorch on one rank."""
    zero_stage: Literal[2, 3] = 3
    """3: the base model is partitioned too. 2: every rank holds it (faster where it fits)."""
    timeout_s: float = Field(default=600.0, gt=0)
    """A collective that takes longer ends the run: set it above the slowest honest wait."""
    reduce_bucket_numel: int = Field(default=5_000_000, ge=1)
    """Elements of a gradient bucket; adapters are small, so larger ones only waste memory."""
    prefetch_bucket_numel: int = Field(default=50_000_000, ge=0)
    """Elements that ZeRO-3 gathers ahead of their use."""
