"""Collectives' own clocks, which know nothing of a machine that was paused.

`Peers` ends a run whose ranks are gone or hang, and counts only time in which it could look. A
process group ends it as soon as a collective has taken longer than its timeout by the clock on
the wall: after a night with the lid closed that is every run. NCCL keeps its clock, which is
`engine.timeout_s` and a little: a kernel that hangs on a device leaves all ranks alike, so that
nothing else would ever end them.
"""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

_LAST_RESORT_S = 24 * 3600.0
_NAMING_S = 15.0
"""What a process group waits beyond `engine.timeout_s`, so that a hung rank is named before."""


def connect(device: torch.device) -> None:
    """Make the connections between ranks, within the timeout that the group was made with.

    gloo has made them already; NCCL makes them in its first collective. Collective: yes.
    """
    if device.type == "cuda":
        dist.all_reduce(torch.zeros(1, device=device))
        torch.cuda.synchronize(device)


def limit_of(timeout_s: float) -> timedelta:
    """Return the timeout of a process group under an `engine.timeout_s`."""
    return timedelta(seconds=timeout_s + _NAMING_S)


def be_patient(timeout_s: float) -> None:
    """Leave it to `Peers` to end what hangs, in every group that there is by now.

    DeepSpeed makes groups of its own, with a library's timeout of 10 or 30 minutes.

    Args:
        timeout_s: `engine.timeout_s`, which NCCL's groups keep; gloo's have none.
    """
    # Not public; without it a pause longer than the groups' timeouts ends a healthy run.
    set_timeout = getattr(dist.distributed_c10d, "_set_pg_timeout", None)
    if set_timeout is None or not dist.is_initialized():
        return
    for group, (backend, _) in list(dist.distributed_c10d._world.pg_map.items()):
        last_resort = timedelta(seconds=_LAST_RESORT_S)
        set_timeout(limit_of(timeout_s) if backend == "nccl" else last_resort, group)
