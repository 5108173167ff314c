"""A process, as others can recognize it: is the one that was here still alive?"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A process, recognizable from its own machine.

    Attributes:
        host: Its host's name, for people.
        machine: Its boot and process namespace; equal means that `pid` can be looked up.
        pid: Its process number.
        started: When it started, since numbers are used again.
        local_rank: The launcher's number for it on its host: its place among the host's ranks,
            or under DeepSpeed its rank modulo their number.
        local_size: How many ranks its host has, as the launcher says.
    """

    host: str
    machine: str
    pid: int
    started: str
    local_rank: int = 0
    local_size: int = 1

    @property
    def where(self) -> str:
        """Its host, told from others of the same name."""
        return f"{self.host} {self.machine}"


def process_identity() -> Identity:
    """Return this process's identity; its place is read from the launcher's variables."""
    return Identity(
        socket.gethostname(),
        _machine(),
        os.getpid(),
        _start_of(os.getpid()) or "",
        int(os.environ.get("LOCAL_RANK", "0")),
        local_size(),
    )


def local_size() -> int:
    """Return how many ranks the launcher started on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def num_ranks() -> int:
    """Return how many ranks the launcher started on all hosts."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_alive(identity: Identity) -> bool:
    """Return whether a process lives; one that cannot be looked up from here counts as living."""
    if not identity.machine or identity.machine != _machine():
        return True
    return _start_of(identity.pid) == identity.started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Return when a process started, None if there is none or it has ended but for its name."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def host_of(rank: int, size: int, known: Mapping[int, Identity]) -> str | None:
    """Return the host of a rank of ``size``, by ranks that are known; None if they do not tell.

    Launchers number ranks host by host, so a host's ranks are a block, in which no rank of another
    host lies. Where that leaves a choice, its first rank has local rank 0.
    """
    by_host: dict[str, list[int]] = {}
    for other in sorted(known):
        by_host.setdefault(known[other].where, []).append(other)
    for ranks in by_host.values():
        identity, least, most = known[ranks[0]], ranks[0], ranks[-1]
        before = max((other for other in known if other < least), default=-1)
        after = min((other for other in known if other > most), default=size)
        first = least - identity.local_rank
        first = max(first, before + 1, most - identity.local_size + 1)
        first = min(first, least, after - identity.local_size)
        if first <= rank < first + identity.local_size:
            return identity.host
    return None
