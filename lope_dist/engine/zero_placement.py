"""A `Placement` that makes each loaded weight a ZeRO-3 partition at once.

No rank ever holds a whole tensor: DeepSpeed is told the tensor's shape through a stand-in
that takes the memory of one element, and is then given this rank's part.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lope_dist.config.engine import EngineConfig
from lope_dist.engine.ds_config import offload_settings
from lope_dist.engine.nodes import sharing_ranks
from lope_dist.engine.world import World


class ZeroPlacement:
    """Partitions each parameter over ranks, as ZeRO-3 does, in host memory if offloaded.

    Over all ranks, or over those of this host (`engine.shard`). Making one is collective.
    """

    def __init__(self, world: World, engine: EngineConfig) -> None:
        import deepspeed

        self.device = world.device
        self._sharing = sharing_ranks(world, engine)
        self._on_host = engine.offloads_parameters
        zero = {"stage": 3, **offload_settings(engine)}
        config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
        self._init: Any = deepspeed.zero.Init(config_dict_or_path=config)

    def span(self, numel: int) -> tuple[int, int]:
        """Return this rank's range of a flat tensor; the last ranks' may be short or empty."""
        return self.spans(numel)[self._sharing.rank]

    def spans(self, numel: int) -> list[tuple[int, int]]:
        """Return each rank's range."""
        size = _partition_size(numel, self._sharing.size)
        return [
            (min(rank * size, numel), min((rank + 1) * size, numel))
            for rank in range(self._sharing.size)
        ]

    def whole(self, part: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        """Join the ranks' parts; where they overlap they are equal. Collective: yes."""
        if self._sharing.size == 1:
            return part
        longest = max(stop - start for start, stop in spans)
        padded = part.new_zeros(longest)
        padded[: part.numel()] = part
        received = part.new_empty(self._sharing.size * longest)
        dist.all_gather_into_tensor(received, padded, group=self._sharing.group)
        joined = part.new_empty(max(stop for _, stop in spans))
        for rank, (start, stop) in enumerate(spans):
            offset = rank * longest
            joined[start:stop] = received[offset : offset + stop - start]
        return joined

    def empty_part(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Return this rank's partition of zeros, the last ranks' padding included."""
        size = _partition_size(numel, self._sharing.size)
        if self._on_host:
            return torch.zeros(size, dtype=dtype, pin_memory=self.device.type == "cuda")
        return torch.zeros(size, dtype=dtype, device=self.device)

    def place(self, parameter: nn.Parameter, part: Tensor, shape: torch.Size) -> None:
        """Turn ``parameter``, a stand-in of ``shape``, into a partitioned one."""
        from deepspeed.runtime.zero.partition_parameters import PartitionedParamStatus, free_param

        target: Any = parameter
        if self._sharing.group is not None:
            target.ds_zero_partition_process_group = self._sharing.group
        self._init._convert_to_deepspeed_param(parameter)
        assert target.ds_shape == shape
        assert part.numel() == _partition_size(shape.numel(), self._sharing.size)
        partition: Any = part
        partition.requires_grad = False
        partition.ds_numel = part.numel()
        partition.status = PartitionedParamStatus.AVAILABLE
        partition.final_location = None
        target.ds_tensor = partition
        target.ds_numel_aligned = part.numel() * self._sharing.size
        free_param(parameter)


def _partition_size(numel: int, world_size: int) -> int:
    """Return the elements of each rank's part, padding included."""
    return -(-numel // world_size)
