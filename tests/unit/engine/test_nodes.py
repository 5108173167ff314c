"""Which ranks are of one host, by launchers that number them differently."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import torch

from lope_dist.engine import nodes
from lope_dist.engine.processes import Identity, host_of, process_identity
from lope_dist.engine.world import World

UNEVEN = (8, 7)
"""Slots of two hosts."""


def ranks_of(slots: tuple[int, ...], is_deepspeed: bool) -> list[Identity]:
    """Return the identities of the ranks of hosts, as a launcher numbers them."""
    identities = []
    for number, size in enumerate(slots):
        for place in range(size):
            local = len(identities) % size if is_deepspeed else place  # its launch.py
            of_host = {"host": f"node{number}", "machine": f"boot{number}"}
            placed = {"local_rank": local, "local_size": size}
            identities.append(replace(process_identity(), **of_host, **placed))
    return identities


@pytest.mark.parametrize("is_deepspeed", [True, False])
def test_ranks_of_hosts_with_unequal_slots_are_grouped_by_host(
    is_deepspeed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(nodes, "exchange", lambda text, world: told.append(text) or list(told))
    for rank, identity in enumerate(ranks_of(UNEVEN, is_deepspeed)):
        monkeypatch.setattr(socket, "gethostname", lambda host=identity.host: host)
        monkeypatch.setenv("LOCAL_RANK", str(identity.local_rank))
        groups = nodes._ranks_of_hosts(World(rank, 15, torch.device("cpu")))
    assert groups == [list(range(8)), list(range(8, 15))]


def test_local_ranks_of_deepspeed_are_the_devices_of_their_host() -> None:
    """So `cuda:LOCAL_RANK` gives each rank of a host a device of its own."""
    for number, size in enumerate(UNEVEN):
        ranks = [i for i in ranks_of(UNEVEN, is_deepspeed=True) if i.host == f"node{number}"]
        assert sorted(i.local_rank for i in ranks) == list(range(size))


@pytest.mark.parametrize("is_deepspeed", [True, False])
@pytest.mark.parametrize("slots", [UNEVEN, (2, 2), (1, 4, 3)])
def test_the_host_of_each_missing_rank_is_told_by_the_others(
    slots: tuple[int, ...], is_deepspeed: bool
) -> None:
    identities = ranks_of(slots, is_deepspeed)
    for missing, identity in enumerate(identities):
        known = {rank: other for rank, other in enumerate(identities) if rank != missing}
        expected = identity.host if identity.local_size > 1 else None
        assert host_of(missing, len(identities), known) == expected
        assert host_of(missing, len(identities), dict(reversed(known.items()))) == expected


def test_of_a_host_of_which_no_rank_came_nothing_is_told() -> None:
    identities = ranks_of((2, 2, 2), is_deepspeed=True)
    known = {rank: identities[rank] for rank in (0, 5)}
    assert [host_of(rank, 6, known) for rank in range(6)] == [
        *("node0", "node0", None, None, "node2", "node2")
    ]
