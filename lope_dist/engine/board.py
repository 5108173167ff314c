"""What the ranks of a run write for each other in the launcher's rendezvous store.

The store answers for a key at a time, so what counts is how many keys it serves. Every question
here but two is for a fixed number of keys: `beats` is for one of each rank, and rank 0 alone asks
it; `roster` is one key that is as long as there are ranks, for rank 0 and for who names a rank
that did not come.

    roster           identities of all ranks, in the order in which they came
    host/MACHINE     the same, of the ranks of one machine
    beat/RANK        how often a rank has looked, and how many meeting points it has come to
    leader           the same of rank 0, which is the one that all others look at
    roll             the identity of rank 0, once all ranks are there
    alarm            set once a collective has failed somewhere
    verdict          who is gone; the first one stands
    heard            how many ranks have read it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from lope_dist.core.errors import EXIT_PEER_LOST
from lope_dist.engine.processes import Identity

_NOTHING = "-"
_CONNECT_S = 15
_ALWAYS_THERE = ("leader", "roll", "alarm", "verdict")
"""Keys that hold `_NOTHING` at first: a question for a missing key would wait for it."""


@dataclass(frozen=True)
class Verdict:
    """Ranks that are gone, the sentence that says so, and the status with which all others end."""

    ranks: tuple[int, ...]
    sentence: str
    status: int = EXIT_PEER_LOST


@dataclass(frozen=True)
class News:
    """What a rank reads in each of its looks.

    Attributes:
        leader: Rank 0's beat, None before it came.
        verdict: Who is gone, if that is known.
        is_alarm: Whether a collective has failed somewhere.
        roll: Rank 0's identity once all ranks are there.
        neighbours: The identities of this machine's ranks by rank; empty unless asked for.
    """

    leader: str | None
    verdict: Verdict | None
    is_alarm: bool
    roll: Identity | None
    neighbours: dict[int, Identity]


class Board:
    """One rank's connection to the store.

    Args:
        address: Host and port of the store.
        attempt: Tells one start of the ranks from the next where the store outlives them.
        rank: This rank.
        identity: What the others know it by.
    """

    def __init__(
        self, address: tuple[str, int], attempt: str, rank: int, identity: Identity
    ) -> None:
        self._address, self._prefix = address, f"lope_peers/{attempt}"
        self._rank, self._identity = rank, identity
        self._host = f"host/{identity.machine}"
        self._store: Any = self._connect()  # torch's stubs lack `append`
        for key in _ALWAYS_THERE:
            self._store.compare_set(key, "", _NOTHING)

    def enter(self) -> None:
        """Let the others know that this rank is there."""
        entry = json.dumps({"rank": self._rank, **asdict(self._identity)}) + "\n"
        self.beat(0, 0)
        if self._identity.machine:
            self._store.append(self._host, entry)
        else:  # its processes cannot be looked up
            self._store.compare_set(self._host, "", _NOTHING)
        self._store.append("roster", entry)

    def beat(self, count: int, num_meetings: int) -> None:
        """Write this rank's heartbeat."""
        key = "leader" if self._rank == 0 else f"beat/{self._rank}"
        self._store.set(key, f"{count} {num_meetings}")

    def news(self, *, with_neighbours: bool) -> News:
        """Return what is new; `enter` came before."""
        keys = [*_ALWAYS_THERE, *([self._host] if with_neighbours else [])]
        leader, roll, alarm, verdict, *host = (
            value.decode() for value in self._store.multi_get(keys)
        )
        return News(
            leader=None if leader == _NOTHING else leader,
            verdict=_read_verdict(verdict),
            is_alarm=alarm != _NOTHING,
            roll=None if roll == _NOTHING else Identity(**json.loads(roll)),
            neighbours=_read_entries(host[0]) if host else {},
        )

    def beats(self, ranks: Sequence[int]) -> dict[int, str]:
        """Return the beats of ranks that have entered, none of them rank 0."""
        values = self._store.multi_get([f"beat/{rank}" for rank in ranks]) if ranks else []
        return {rank: beat.decode() for rank, beat in zip(ranks, values, strict=True)}

    def roster(self) -> dict[int, Identity]:
        """Return the identities of all ranks that are there, this one among them."""
        return _read_entries(self._store.get("roster").decode())

    def end_roll(self) -> None:
        """Tell the others that all ranks are there."""
        self._store.set("roll", json.dumps(asdict(self._identity)))

    def raise_alarm(self) -> None:
        """Ask rank 0 to count ranks as gone after a shorter silence: a collective failed."""
        self._store.set("alarm", "a collective failed")

    def judge(self, verdict: Verdict) -> Verdict:
        """Say who is gone; return the verdict that stands, which is the first one."""
        written = self._store.compare_set("verdict", _NOTHING, json.dumps(asdict(verdict)))
        return _read_verdict(written.decode()) or verdict

    def hear(self) -> None:
        """Count this rank among those that know the verdict."""
        self._store.add("heard", 1)

    def num_heard(self) -> int:
        """Return how many ranks know the verdict."""
        return self._store.add("heard", 0)

    def reconnect(self) -> bool:
        """Connect anew, and return whether that went well."""
        try:
            self._store = self._connect()
        except RuntimeError:
            return False
        return True

    def _connect(self) -> dist.Store:
        """Return a connection of its own: one that the main thread waits on could not be used."""
        store = dist.TCPStore(
            *self._address, is_master=False, timeout=timedelta(seconds=_CONNECT_S)
        )
        return dist.PrefixStore(self._prefix, store)


def _read_verdict(text: str) -> Verdict | None:
    if text == _NOTHING:
        return None
    fields = json.loads(text)
    return Verdict(tuple(fields["ranks"]), fields["sentence"], fields["status"])


def _read_entries(text: str) -> dict[int, Identity]:
    """Return identities by rank; of a rank that came twice, the later one."""
    entries = [json.loads(line) for line in text.splitlines() if line != _NOTHING]
    return {entry.pop("rank"): Identity(**entry) for entry in entries}
