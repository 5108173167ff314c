"""The ranks of one host as a process group of their own.

The frozen base needs no gradient. So each host may hold one copy of it, spread over its own ranks:
its gathers stay inside the host, and only what trains crosses the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from lope_dist.config.engine import EngineConfig
from lope_dist.engine.exchange import exchange
from lope_dist.engine.patience import be_patient
from lope_dist.engine.processes import process_identity
from lope_dist.engine.world import World


@dataclass(frozen=True)
class Sharing:
    """The ranks that share one copy of the base.

    Attributes:
        rank: This rank's place among them.
        size: How many there are.
        group: Their process group; None: all ranks.
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None = None


def sharing_ranks(world: World, engine: EngineConfig) -> Sharing:
    """Return the ranks that share this rank's copy, by `engine.shard`. Collective: yes."""
    if engine.shard == "world":
        return Sharing(world.rank, world.size)
    hosts = _ranks_of_hosts(world)
    if len(hosts) == 1:
        return Sharing(world.rank, world.size)
    # Every rank makes every group, in the same order.
    groups: list[Any] = [dist.new_group(ranks) for ranks in hosts]
    be_patient(engine.timeout_s)
    (host,) = (index for index, ranks in enumerate(hosts) if world.rank in ranks)
    return Sharing(hosts[host].index(world.rank), len(hosts[host]), groups[host])


def _ranks_of_hosts(world: World) -> list[list[int]]:
    """Return the ranks of each host, as they recognize each other. Collective: yes."""
    hosts: dict[str, list[int]] = {}
    for rank, name in enumerate(exchange(process_identity().where, world)):
        hosts.setdefault(name, []).append(rank)
    return list(hosts.values())
