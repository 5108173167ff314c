"""One rank of a timed all-reduce; runs by `python -m lope_dist.doctor all-reduce`."""

from __future__ import annotations

import os
import time
from typing import Any

from lope_dist.config.engine import EngineConfig

_NUMEL, _NUM_TIMES = 1 << 20, 10


def time_all_reduce(question: dict[str, Any]) -> dict[str, Any]:
    """Join the group and return the seconds of an all-reduce of 4 MiB and of 4 bytes.

    Args:
        question: `rank`, `size`, `local_rank`, `local_size`, `address`, `port`, `interface`,
            `timeout_s`.
    """
    variables = {
        "RANK": question["rank"],
        "WORLD_SIZE": question["size"],
        "LOCAL_RANK": question["local_rank"],
        "LOCAL_WORLD_SIZE": question["local_size"],
        "MASTER_ADDR": question["address"],
        "MASTER_PORT": question["port"],
    }
    os.environ.update({key: str(value) for key, value in variables.items()})
    import torch
    import torch.distributed as dist

    from lope_dist.engine.world import start_world

    config = EngineConfig(timeout_s=question["timeout_s"], interface=question["interface"])
    world = start_world(config)
    seconds = {}
    for name, numel in (("large_s", _NUMEL), ("small_s", 1)):
        values = torch.ones(numel, device=world.device)
        for _ in range(2):
            dist.all_reduce(values)
        world.barrier()
        begin = time.perf_counter()
        for _ in range(_NUM_TIMES):
            dist.all_reduce(values)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name] = (time.perf_counter() - begin) / _NUM_TIMES
    values = torch.full((1,), float(world.rank + 1), device=world.device)
    dist.all_reduce(values)
    right = float(values) == world.size * (world.size + 1) / 2
    world.close()
    return seconds | {"right": right, "bytes": 4 * _NUMEL, "device": world.device.type}
