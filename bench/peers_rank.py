"""One simulated rank of `peers.py`: a forked process with a real store and without a model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from lope_dist.core.errors import PeerLost
from lope_dist.core.exits import end_at_once
from lope_dist.engine import processes
from lope_dist.engine.board import Board
from lope_dist.engine.peers import Peers

RANKS_A_HOST = 8
_TICK_S = 0.1
_START_S = 120.0


class Counted:
    """A store that counts the keys it is asked for, and the longest it took to answer."""

    def __init__(self, store: Any, served: np.ndarray, slowest: np.ndarray) -> None:
        self._store, self._served, self._slowest = store, served, slowest

    def set(self, key: str, value: str) -> None:
        """Write one key."""
        self._timed(1, self._store.set, key, value)

    def get(self, key: str) -> bytes:
        """Read one key."""
        return self._timed(1, self._store.get, key)

    def append(self, key: str, value: str) -> None:
        """Write behind what one key has."""
        self._timed(1, self._store.append, key, value)

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Write one key if it is as expected."""
        return self._timed(1, self._store.compare_set, key, expected, desired)

    def add(self, key: str, amount: int) -> int:
        """Add to the number of one key."""
        return self._timed(1, self._store.add, key, amount)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Read several keys."""
        return self._timed(len(keys), self._store.multi_get, list(keys))

    def _timed(self, num_keys: int, call: Any, *arguments: Any) -> Any:
        began = time.monotonic()
        answer = call(*arguments)
        self._slowest[0] = max(self._slowest[0], time.monotonic() - began)
        self._served[0] += num_keys
        return answer


def be_rank(
    rank: int, size: int, port: int, timeout_s: float, folder: Path, shared: dict[str, np.ndarray]
) -> None:
    """Be a rank until the parent says that the run is over, or until a rank is gone.

    ``shared`` has the parent's `go`, `step` (all ranks come to it, but the one that is `hung`),
    `failed` (whether collectives fail) and `over`, and a number for each rank in `ready`,
    `served` and `slowest`.
    """
    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    host = rank // RANKS_A_HOST
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank % RANKS_A_HOST),
        LOCAL_WORLD_SIZE=str(min(RANKS_A_HOST, size - host * RANKS_A_HOST)),
    )
    processes._machine = lambda: f"simulated host {host}"
    mine = slice(rank, rank + 1)
    connect = Board._connect
    Board._connect = lambda self: Counted(  # pyright: ignore[reportAttributeAccessIssue]
        connect(self), shared["served"][mine], shared["slowest"][mine]
    )
    address = "127.0.0.1", port
    while not shared["go"][0]:
        time.sleep(_TICK_S)
    try:
        # As in a run, rank 0 keeps the store, and each rank has a connection for its process group.
        store = dist.TCPStore(
            *address,
            is_master=rank == 0,
            wait_for_workers=False,
            timeout=timedelta(seconds=_START_S),
        )
        peers = Peers(rank, size, address, _START_S, "0")
        peers._timeout_s = timeout_s  # of a hang; so many processes on few cores start slowly
        shared["ready"][rank] = 1
        place = 0
        while not shared["over"][0]:
            time.sleep(_TICK_S)
            while place < shared["step"][0] and shared["hung"][0] != rank:
                place += 1
                peers.advance()
            if shared["failed"][0]:  # what `World.told` does
                cause = peers.blame() or "Communication failed, and all ranks still live"
                peers.tell(cause)
                end_at_once(PeerLost(cause))
        peers.close()
        shared["ready"][rank] = 2
        while rank == 0 and (shared["ready"] != 2).any():  # the store is its own
            time.sleep(_TICK_S)
        del store
    except PeerLost as error:
        end_at_once(error)
    sys.stdout.flush()
    os._exit(0)
