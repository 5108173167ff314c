"""Which of the other ranks is gone, so that a run ends soon and with that rank's number.

A collective whose peer has died says so by a broken connection at best; at worst, on GPUs, it
waits for its timeout. Here each rank leaves a sign of life in the launcher's rendezvous store,
and a thread looks at the others':

    process gone (same host)      noticed in 2 s
    no sign of life (any host)    noticed in 40 s
    an error that it told         noticed in 2 s

A rank whose collective failed asks who it was; one that still waits 10 s after the thread
noticed is ended by the thread.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from lope_dist.core.errors import EXIT_PEER_LOST

_PERIOD_S, _SILENCE_S, _GRACE_S = 2.0, 40.0, 10.0
_EXIT_S = 1.0
"""A killed process closes its connections a moment before it is gone."""


@dataclass(frozen=True)
class _Identity:
    """A process, recognizable from its own machine.

    Attributes:
        host: Its host's name, for people.
        machine: Its boot and process namespace; equal means that `pid` can be looked up.
        pid: Its process number.
        started: When it started, since numbers are used again.
    """

    host: str
    machine: str
    pid: int
    started: str


class Peers:
    """The other ranks' lives, as far as this one can tell.

    Raises:
        RuntimeError: the rendezvous store of ``address`` does not answer.
    """

    def __init__(self, rank: int, size: int, address: tuple[str, int]) -> None:
        self._rank, self._others = rank, [r for r in range(size) if r != rank]
        self._store = dist.PrefixStore(  # pyright: ignore[reportPrivateImportUsage]
            "lope_peers",
            dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
                *address, is_master=False, timeout=timedelta(seconds=15)
            ),
        )
        self._identities: dict[int, _Identity] = {}
        self._beats: dict[int, tuple[str, float]] = {}
        self._num_beats = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._store.set(f"identity/{rank}", json.dumps(asdict(_own_identity())))
        self._meet()
        self._looked = time.monotonic()
        for target in (self._watch, self._guard):
            threading.Thread(target=target, name="lope-peers", daemon=True).start()

    def tell(self, reason: str) -> None:
        """Tell the others why this rank stops."""
        self._over.set()
        try:
            self._store.set(f"stopped/{self._rank}", reason)
        except RuntimeError:
            return  # the store is gone, and the others see that

    def blame(self) -> str | None:
        """Return a sentence on who is gone; None if all still live after a while.

        A silent rank is known to be gone only after `_SILENCE_S`.
        """
        deadline = time.monotonic() + _SILENCE_S + 2 * _PERIOD_S
        while time.monotonic() < deadline:
            if sentence := self._look():
                time.sleep(_EXIT_S)
                return self._look() or sentence
            time.sleep(0.2)
        return None

    def close(self) -> None:
        """Stop watching: the run is over."""
        self._over.set()

    def _meet(self) -> None:
        """Wait a while for the others, which are about here too, to know who they are."""
        deadline = time.monotonic() + _GRACE_S
        while True:
            self._look()
            if len(self._identities) == len(self._others) or time.monotonic() > deadline:
                return
            time.sleep(0.05)

    def _watch(self) -> None:
        while not self._over.wait(_PERIOD_S):
            sentence = self._look()
            if sentence and not self._over.wait(_GRACE_S):
                print(f"error (rank {self._rank}): {sentence}", file=sys.stderr, flush=True)
                # The main thread waits in a collective that will not return.
                os._exit(EXIT_PEER_LOST)

    def _guard(self) -> None:
        """End the process when the store itself falls silent, as behind a cut cable.

        A question to it then waits for TCP to give up, a quarter of an hour, and so does everyone
        who wants to ask.
        """
        while not self._over.wait(_PERIOD_S):
            if time.monotonic() - self._looked > _SILENCE_S:
                print(
                    f"error (rank {self._rank}): The host of rank 0, which keeps the rendezvous, "
                    f"or the network to it has not answered for {_SILENCE_S:.0f} s.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_PEER_LOST)

    def _look(self) -> str | None:
        """Beat, look at the others and return a sentence on who is gone, if anyone is."""
        with self._lock:
            stopped: dict[int, str] = {}
            has_store = True
            try:
                self._num_beats += 1
                self._store.set(f"beat/{self._rank}", str(self._num_beats))
                for rank in self._others:
                    self._read(rank, stopped)
            except RuntimeError:
                has_store = False
            self._looked = time.monotonic()
            now = time.monotonic()
            gone = [r for r, identity in self._identities.items() if not _lives(identity)]
            silent = [r for r, (_, since) in self._beats.items() if now - since > _SILENCE_S]
        if gone:
            return f"{self._name(gone)} ended unexpectedly; its own output may say why."
        if stopped:
            rank, reason = min(stopped.items())
            return f"{self._name([rank])} stopped: {reason}"
        if not has_store:
            return f"{self._name([0])}, or the launcher that keeps the rendezvous, ended."
        if silent:
            return f"{self._name(silent)} gave no sign of life for {_SILENCE_S:.0f} s."
        return None

    def _read(self, rank: int, stopped: dict[int, str]) -> None:
        """Note what the store says of a rank."""
        if rank not in self._identities and self._store.check([f"identity/{rank}"]):
            text = self._store.get(f"identity/{rank}")
            self._identities[rank] = _Identity(**json.loads(text))
        if self._store.check([f"beat/{rank}"]):
            beat = self._store.get(f"beat/{rank}").decode()
            if beat != self._beats.get(rank, ("", 0.0))[0]:
                self._beats[rank] = beat, time.monotonic()
        if self._store.check([f"stopped/{rank}"]):
            stopped[rank] = self._store.get(f"stopped/{rank}").decode()

    def _name(self, ranks: list[int]) -> str:
        names = []
        for rank in sorted(ranks):
            known = self._identities.get(rank)
            names.append(
                f"Rank {rank}" + (f" (process {known.pid} on {known.host})" if known else "")
            )
        return ", ".join(names)


def _own_identity() -> _Identity:
    return _Identity(socket.gethostname(), _machine(), os.getpid(), _start_of(os.getpid()) or "")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _lives(identity: _Identity) -> bool:
    """Return whether a process lives; one that cannot be looked up from here counts as living."""
    if not identity.machine or identity.machine != _machine():
        return True
    return _start_of(identity.pid) == identity.started


def _start_of(pid: int) -> str | None:
    """Return when a process started, None if there is none or it has ended but for its name."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
