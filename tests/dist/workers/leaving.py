"""End for an error while collectives are under way, and say so if Python is taken apart."""

import atexit
import os

import torch
import torch.distributed as dist

from lope_dist.config.engine import EngineConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.exits import end
from lope_dist.engine.world import start_world

atexit.register(os.write, 2, b"taken apart\n")
start_world(EngineConfig(kind="deepspeed", timeout_s=30)).barrier()
for _ in range(100):
    dist.all_reduce(torch.ones(1 << 18), async_op=True)
end(LopeError("Something is wrong."))
