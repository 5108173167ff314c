"""`RUN/cost.json`: what each stage took of time, tokens and memory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lope_dist.core.memory import peak_rss_bytes
from lope_dist.engine.world import World

COST_FILE = "cost.json"


@dataclass
class StageCost:
    """What one stage took, added up over the starts of its run.

    What a start did after its last checkpoint is not in it: a resume does that again.
    """

    seconds: float = 0.0
    """Wall-clock time: building the engine, training, writing checkpoints."""
    rank_seconds: float = 0.0
    """The same times the number of ranks, which may change from start to start."""
    steps: int = 0
    """Optimizer steps, those that were skipped included."""
    tokens: int = 0
    """Tokens of these steps over all ranks, without padding."""
    ranks: int = 0
    """Ranks of the last start."""
    peak_memory_bytes: int = 0
    """Most memory of any rank: the device's since the stage began; on a CPU the process's."""
    peak_host_bytes: int = 0
    """Largest resident set of any rank's process since it started, so loading is in it."""

    def as_json(self) -> dict[str, Any]:
        """Return what `cost.json` says of the stage."""
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return {**asdict(self), "tokens_per_s": rate}


class CostMeter:
    """Counts one stage's cost from its making on, on top of what earlier starts took."""

    def __init__(self, world: World, cost: StageCost) -> None:
        self._world, self._cost = world, cost
        self._since = time.monotonic()
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)

    def update(self, steps: int, tokens: int) -> None:
        """Bring the cost up to now; ``steps`` and ``tokens`` are the whole stage's so far.

        Collective: yes.
        """
        cost, world = self._cost, self._world
        host = peak_rss_bytes()
        device_memory = (
            torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else host
        )
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        peak_memory, peak_host = (int(n) for n in world.max([device_memory, host]))
        cost.seconds += elapsed
        cost.rank_seconds += elapsed * world.size
        cost.steps, cost.tokens, cost.ranks = steps, tokens, world.size
        cost.peak_memory_bytes = max(cost.peak_memory_bytes, peak_memory)
        cost.peak_host_bytes = max(cost.peak_host_bytes, peak_host)
