"""`engine`: who runs the steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lope_dist.config.base import Section


class EngineConfig(Section):
    """How parameters, gradients and optimizer state are spread over ranks."""

    kind: Literal["deepspeed", "local"] = "deepspeed"
    """`deepspeed`: ZeRO over any number of ranks. `local`: plain PyTorch on one rank."""
    zero_stage: Literal[2, 3] = 3
    """3: the base model is partitioned too. 2: every rank holds it (faster where it fits)."""
    shard: Literal["world", "node"] = "world"
    """Under ZeRO-3, the ranks that share one copy of the base: all (`world`), or those of each
    host (`node`). With `node` its gathers never leave a host; the adapters' gradients and values
    still do. Each host must have room for the whole base."""
    timeout_s: float = Field(default=600.0, gt=0)
    """How long ranks wait for one that does not start or hangs; then they name it and end. Set it
    above the slowest honest wait, such as for rank 0 to write a checkpoint."""
    interface: str | None = None
    """Network interface that joins the hosts, such as `eth0`; every host must have it. gloo and
    NCCL's sockets use it alone, and the rendezvous listens on its address alone; over InfiniBand
    NCCL goes by its cards. Default: theirs. Not with `kind: local`, which joins no hosts."""
    reduce_bucket_numel: int = Field(default=5_000_000, ge=1)
    """Elements of a gradient bucket; adapters are small, so larger ones only waste memory."""
    prefetch_bucket_numel: int = Field(default=50_000_000, ge=0)
    """Elements that ZeRO-3 gathers ahead of their use, and above which it gathers nothing more
    ahead; an element of a 16-bit model holds four NF4 weights."""
    offload: Literal["none", "parameters", "optimizer", "both"] = "none"
    """What lives in host memory between uses: the partitions of the parameters, the optimizer's
    state with the trained parameters' masters, or both."""

    @model_validator(mode="after")
    def _settings_have_an_engine(self) -> EngineConfig:
        if self.kind == "local" and self.offload != "none":
            raise ValueError(
                f"engine.offload = '{self.offload}' needs DeepSpeed; set engine.kind=deepspeed "
                "or engine.offload=none"
            )
        if self.kind == "local" and self.interface is not None:
            raise ValueError(
                f"engine.interface = '{self.interface}' joins hosts, and engine.kind=local is one "
                "rank; set engine.kind=deepspeed or engine.interface=null"
            )
        if self.zero_stage == 2 and self.offload in ("parameters", "both"):
            raise ValueError(
                f"engine.offload = '{self.offload}' needs partitioned parameters, which ZeRO-2 "
                "has not; set engine.zero_stage=3 or engine.offload=optimizer"
            )
        if self.shard == "node" and not self.partitions_parameters:
            raise ValueError(
                "engine.shard = 'node' needs partitioned parameters; set engine.kind=deepspeed and "
                "engine.zero_stage=3, or engine.shard=world"
            )
        return self

    @property
    def partitions_parameters(self) -> bool:
        """Whether ranks hold parts of the base model and gather a layer for its use (ZeRO-3)."""
        return self.kind == "deepspeed" and self.zero_stage == 3

    @property
    def offloads_parameters(self) -> bool:
        """Whether the parameters' partitions live in host memory."""
        return self.offload in ("parameters", "both")

    @property
    def offloads_optimizer(self) -> bool:
        """Whether the optimizer's state lives in host memory."""
        return self.offload in ("optimizer", "both")
