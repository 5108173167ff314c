"""One copy of the base a host (`engine.shard: node`): equal losses, and a quiet network."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from faults.base import case
from faults.hosts import INTERFACE, Host, Hosts, hosts
from faults.launchers import (
    Launch,
    assert_same_losses,
    by_no_ssh,
    kill,
    recipe,
    steps_of,
    succeed,
    tails,
    training,
    until,
    wait,
    workers,
)
from support.tiny import save_tiny_llama

STEPS, SLOTS = 6, 2
WIDE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6}
"""A base that is far larger than its adapters."""


@case(
    "one copy of the base a host",
    group="Launching on several hosts",
    states="Two hosts of two ranks: `engine.shard: node` gives the losses of `world`, and a host "
    "receives less than a third over the network; a stopped run goes on with the other setting.",
)
def _one_copy_a_host(folder: Path) -> dict[str, Any]:
    save_tiny_llama(folder / "wide", **WIDE)
    received = {}
    with hosts(2, folder / "hosts") as group:
        for shard in ("world", "node"):
            before = _received(group[0])
            succeed(_launch(group, folder, shard, shard))
            received[shard] = _received(group[0]) - before
        launches = _launch(group, folder, "both", "node")
        until(lambda: len(steps_of(folder / "both")) >= 2, launches)
        kill([pid for rank in range(2) for pid in workers(group, rank)], signal.SIGTERM)
        assert 0 not in wait(launches), tails(launches)
        assert 2 <= len(steps_of(folder / "both")) < 2 * STEPS
        succeed(_launch(group, folder, "both", "world"))
    runs = [folder / name for name in ("world", "node", "both")]
    worst = assert_same_losses(runs, 1e-5)
    assert len(steps_of(runs[2])) == 2 * STEPS
    assert received["node"] < received["world"] / 3, received
    megabytes = {f"received with {shard} (MB)": size // 10**6 for shard, size in received.items()}
    return megabytes | {"loss difference": f"{worst:.1e}"}


def _launch(group: Hosts, folder: Path, run: str, shard: str) -> list[Launch]:
    path = recipe(folder, steps=STEPS, run=run)
    settings = [f"model.name_or_path={folder / 'wide'}", f"engine.shard={shard}", "--resume"]
    return by_no_ssh(group, training(path, *settings), f"{run}-{shard}", slots=SLOTS)


def _received(host: Host) -> int:
    """Return the bytes that came over a host's link so far."""
    inside = ["nsenter", "-t", str(host.init), "-n", "ip", "-j", "-s", "link", "show", INTERFACE]
    told = subprocess.run(inside, capture_output=True, check=True, timeout=20).stdout
    return json.loads(told)[0]["stats64"]["rx"]["bytes"]
