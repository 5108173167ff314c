"""Which of the other ranks is gone, so that a run ends soon and with that rank's number.

A collective whose peer has died says so by a broken connection at best; at worst, on GPUs, it
waits for its timeout. Here each rank leaves a sign of life in the launcher's rendezvous store,
and a thread looks at the others':

    never came                     noticed by the roll call after `engine.timeout_s`
    process gone (same host)       noticed in 2 s
    an error that it told          noticed in 2 s
    no sign of life (any host)     noticed in 40 s, or half of `engine.timeout_s` if that is less;
                                   in 6 s once a collective has failed
    lives, but does not come to    noticed after `engine.timeout_s`
    where the others wait

A rank whose collective failed asks who it was; one that still waits 5 s after the thread
noticed is ended by the thread.

Silence counts only between looks that were on time. A process that was stopped for a while, with
a paused virtual machine or a closed lid, knows nothing of the others' lives meanwhile, and starts
its counts anew.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta

import torch.distributed as dist

from lope_dist.core.errors import PeerLost
from lope_dist.core.exits import end_at_once
from lope_dist.engine.processes import Identity, is_alive, own_identity

_MOST_PERIOD_S, _MOST_SILENCE_S, _MOST_GRACE_S = 2.0, 40.0, 5.0
_EXIT_S = 1.0
"""A killed process closes its connections a moment before it is gone."""


class Peers:
    """The other ranks' lives, as far as this one can tell.

    Args:
        rank: This rank.
        size: Number of ranks.
        address: Host and port of the rendezvous store.
        timeout_s: `engine.timeout_s`.
        attempt: Tells one start of the ranks from the next where the store outlives them.

    Raises:
        PeerLost: a rank has not come within the timeout; the sentence names it. Another one
            is gone already.
    """

    def __init__(
        self, rank: int, size: int, address: tuple[str, int], timeout_s: float, attempt: str
    ) -> None:
        self._rank, self._others = rank, [r for r in range(size) if r != rank]
        self._timeout_s = timeout_s
        self._silence_s = min(_MOST_SILENCE_S, timeout_s / 2)
        self._period_s = min(_MOST_PERIOD_S, timeout_s / 8)
        self._grace_s = min(_MOST_GRACE_S, timeout_s / 4)
        self._late_s = self._silence_s / 2
        self._address, self._attempt = address, attempt
        self._store = self._connect()
        self._identities: dict[int, Identity] = {}
        self._beats: dict[int, tuple[str, float]] = {}
        self._places: dict[int, tuple[int, float]] = {}
        self._num_beats = self._place = 0
        self._last_look = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._done = threading.Event()
        self._looked = time.monotonic()
        self._store.set(f"identity/{rank}", json.dumps(asdict(own_identity())))
        self._call_roll()
        self._thread = threading.Thread(target=self._watch, name="lope-peers", daemon=True)
        self._thread.start()
        self._guardian = threading.Thread(target=self._guard, name="lope-guard", daemon=True)
        self._guardian.start()

    def advance(self) -> None:
        """Note that the main thread has come to the next place where ranks meet."""
        self._place += 1

    def tell(self, reason: str) -> None:
        """Tell the others why this rank stops, and stop watching."""
        self._end_watch()
        self._looked = time.monotonic()
        with suppress(RuntimeError):  # the store is gone, and the others see that
            self._store.set(f"stopped/{self._rank}", reason)
        self._end_guard()

    def blame(self) -> str | None:
        """Return a sentence on who is gone, after a collective has failed; None if all live.

        The failure is evidence, so a few beats missed are enough: on another host that is all
        there is to see of a rank that died.
        """
        silence_s = 3 * self._period_s
        deadline = time.monotonic() + silence_s + self._period_s
        while time.monotonic() < deadline:
            if sentence := self._look(silence_s):
                time.sleep(_EXIT_S)
                return self._look(silence_s) or sentence
            time.sleep(0.2)
        return None

    def close(self) -> None:
        """Stop watching: the run is over."""
        self._end_watch()
        self._end_guard()

    def _connect(self) -> dist.Store:
        """Return a connection of its own: one that the main thread waits on could not be used."""
        store = dist.TCPStore(*self._address, is_master=False, timeout=timedelta(seconds=15))
        return dist.PrefixStore(f"lope_peers/{self._attempt}", store)

    def _end_watch(self) -> None:
        """End the thread: one that is in the store while Python exits aborts the process."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=20)

    def _end_guard(self) -> None:
        self._done.set()
        self._guardian.join()

    def _call_roll(self) -> None:
        """Wait until all ranks are here.

        Raises:
            PeerLost: some do not come, or are gone again.
        """
        waited_s, last = 0.0, time.monotonic()
        while True:
            sentence = self._look()
            now = time.monotonic()
            waited_s, last = waited_s + min(now - last, self._late_s), now
            missing = [r for r in self._others if r not in self._identities]
            if not missing and not sentence:
                return
            if sentence:
                raise PeerLost(sentence)
            if waited_s > self._timeout_s:
                sentence = (
                    f"{', '.join(map(self._describe_missing, missing))} did not start within "
                    f"engine.timeout_s = {self._timeout_s:g} s; the launcher's output on that "
                    "host may say why."
                )
                self._store.set(f"stopped/{self._rank}", sentence)
                time.sleep(_EXIT_S)  # for those who came later to read it: the store may be ours
                raise PeerLost(sentence)
            time.sleep(0.05)

    def _describe_missing(self, rank: int) -> str:
        """Return a missing rank's name with its host, if another rank of that host is known."""
        for known, identity in (*self._identities.items(), (self._rank, own_identity())):
            first = known - identity.local_rank
            if first <= rank < first + identity.local_size:
                return f"Rank {rank} (on {identity.host})"
        return f"Rank {rank} (on a host of which no rank came)"

    def _watch(self) -> None:
        while not self._over.wait(self._period_s):
            sentence = self._look()
            if sentence and not self._over.wait(self._grace_s):
                end_at_once(PeerLost(sentence))  # the main thread waits for what will not come

    def _guard(self) -> None:
        """End the process when the store itself falls silent, as behind a cut cable.

        A question to it then waits for TCP to give up, a quarter of an hour, and so does everyone
        who wants to ask.
        """
        patience_s = max(self._silence_s, _EXIT_S)
        last = time.monotonic()
        while not self._done.wait(self._period_s):
            now = time.monotonic()
            if now - last > self._late_s:
                self._looked = max(self._looked, now)  # it was this process that stopped
            last = now
            if now - self._looked > patience_s:
                end_at_once(
                    PeerLost(
                        "The host of rank 0, which keeps the rendezvous, or the network to it has "
                        f"not answered for {patience_s:g} s."
                    )
                )

    def _look(self, silence_s: float | None = None) -> str | None:
        """Beat, look at the others and return a sentence on who is gone, if anyone is."""
        silence_s = silence_s or self._silence_s
        with self._lock:
            begin = time.monotonic()
            if begin - self._last_look > self._late_s:
                self._start_anew()
            stopped: dict[int, str] = {}
            has_store = True
            try:
                self._num_beats += 1
                self._store.set(f"beat/{self._rank}", f"{self._num_beats} {self._place}")
                for rank in self._others:
                    self._read(rank, stopped)
            except RuntimeError:
                has_store = False
            now = self._looked = self._last_look = time.monotonic()
            if now - begin > self._late_s:
                self._start_anew()
                if not has_store:  # its answer came while nobody listened
                    has_store = self._reconnect()
            gone = [r for r, identity in self._identities.items() if not is_alive(identity)]
            silent = [r for r, (_, since) in self._beats.items() if now - since > silence_s]
            behind = self._behind(now)
        if gone:
            return f"{self._name(gone)} ended unexpectedly; its own output may say why."
        if stopped:
            rank, reason = min(stopped.items())
            return f"{self._name([rank])} stopped: {reason}"
        if not has_store:
            return f"{self._name([0])}, or the launcher that keeps the rendezvous, ended."
        if silent:
            return f"{self._name(silent)} gave no sign of life for {silence_s:g} s."
        if behind:
            return (
                f"{self._name(behind)} hangs: it lives, and has not come to where the others have "
                f"waited for it for engine.timeout_s = {self._timeout_s:g} s."
            )
        return None

    def _start_anew(self) -> None:
        """Forget how long the others have been silent: this process was not there to hear."""
        now = time.monotonic()
        self._beats = {rank: (beat, now) for rank, (beat, _) in self._beats.items()}
        self._places = {rank: (place, now) for rank, (place, _) in self._places.items()}

    def _reconnect(self) -> bool:
        try:
            self._store = self._connect()
        except RuntimeError:
            return False
        return True

    def _behind(self, now: float) -> list[int]:
        """Return the ranks for which others have waited too long; never this one."""
        self._note_place(self._rank, self._place)
        if len(self._places) <= len(self._others):
            return []
        furthest = max(place for place, _ in self._places.values())
        first = min(since for place, since in self._places.values() if place == furthest)
        if now - first <= self._timeout_s:
            return []
        return [
            rank
            for rank, (place, _) in self._places.items()
            if place < furthest and rank != self._rank
        ]

    def _note_place(self, rank: int, place: int) -> None:
        if place != self._places.get(rank, (-1, 0.0))[0]:
            self._places[rank] = place, time.monotonic()

    def _read(self, rank: int, stopped: dict[int, str]) -> None:
        """Note what the store says of a rank."""
        if rank not in self._identities and self._store.check([f"identity/{rank}"]):
            text = self._store.get(f"identity/{rank}")
            self._identities[rank] = Identity(**json.loads(text))
        if self._store.check([f"beat/{rank}"]):
            beat = self._store.get(f"beat/{rank}").decode()
            if beat != self._beats.get(rank, ("", 0.0))[0]:
                self._beats[rank] = beat, time.monotonic()
            self._note_place(rank, int(beat.partition(" ")[2]))
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
