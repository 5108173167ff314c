"""Which of the other ranks is gone, so that a run ends soon and with that rank's number.

A collective whose peer has died says so by a broken connection at best; at worst, on GPUs, it
waits for its timeout. Here each rank leaves a sign of life in the launcher's rendezvous store.
Rank 0 looks at those of all others, all others look at rank 0's, and each rank looks at the
processes of its own host. Who finds a rank gone writes the verdict that all read:

    never came                     noticed by the roll call after `engine.timeout_s`
    process gone                   noticed in 2 s on its host, in 4 s on others
    an error that it told          noticed in 2 s
    no sign of life (any host)     noticed in 42 s, or half of `engine.timeout_s` and 2 s if that
                                   is less; in 8 s once a collective has failed
    lives, but does not come to    noticed after `engine.timeout_s` and 4 s
    where the others wait

So the store serves six keys a rank in 2 s, however many ranks there are. A rank whose collective
failed asks who it was; one that still waits 5 s after the thread noticed is ended by the thread.
Rank 0, which may keep the store, ends after the others have read the verdict.

Silence counts only between looks that were on time. A process that was stopped for a while, with
a paused virtual machine or a closed lid, knows nothing of the others' lives meanwhile, and starts
its counts anew.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from lope_dist.core.errors import EXIT_PEER_LOST, PeerLost
from lope_dist.core.exits import end_at_once
from lope_dist.engine.board import Board, Verdict
from lope_dist.engine.heartbeats import Heartbeats
from lope_dist.engine.processes import host_of, is_alive, process_identity
from lope_dist.engine.store_guard import StoreGuard

_MOST_PERIOD_S, _MOST_SILENCE_S, _MOST_GRACE_S = 2.0, 40.0, 5.0
_FIRST_ROLL_S, _MOST_ROLL_S = 0.05, 0.5
"""How often the roll call asks whether all are there: less and less often."""
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
        self._rank, self._size = rank, size
        self._timeout_s = timeout_s
        self._most_silence_s = min(_MOST_SILENCE_S, timeout_s / 2)
        self._period_s = min(_MOST_PERIOD_S, timeout_s / 8)
        self._grace_s = min(_MOST_GRACE_S, timeout_s / 4)
        self._late_s = self._most_silence_s / 2
        self._identity = process_identity()
        self._identities = {rank: self._identity}
        self._board = Board(address, attempt, rank, self._identity)
        self._guard = StoreGuard(max(self._most_silence_s, _EXIT_S), self._period_s, self._late_s)
        self._heartbeats = Heartbeats()
        self._verdict: Verdict | None = None
        self._is_complete = self._is_alarm = False
        self._num_beats = self._num_meetings = 0
        self._last_look = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._board.enter()
        self._call_roll()
        self._thread = threading.Thread(target=self._watch, name="lope-peers", daemon=True)
        self._thread.start()
        self._guard.start()

    def advance(self) -> None:
        """Note that the main thread has come to the next place where ranks meet."""
        self._num_meetings += 1

    def tell(self, reason: str, status: int = EXIT_PEER_LOST) -> None:
        """Tell the others why this rank stops and with which status they end; stop watching."""
        self._end_watch()
        self._guard.note_answer()
        with suppress(RuntimeError):  # the store is gone, and the others see that
            if self._verdict is None:
                sentence = f"{self._name([self._rank])} stopped: {reason}"
                self._judge([self._rank], sentence, status)
            if self._rank == 0:
                self._wait_until_heard()
        self._guard.close()

    def blame(self) -> str | None:
        """Return a sentence on who is gone, after a collective has failed; None if all live.

        The failure is evidence, so a few beats missed are enough: on another host that is all
        there is to see of a rank that died. Rank 0, which looks for all, is told of it.
        """
        self._is_alarm = True
        with suppress(RuntimeError):
            self._board.raise_alarm()
        deadline = time.monotonic() + self._silence_s + 2 * self._period_s
        while time.monotonic() < deadline:
            if sentence := self._look():
                if self._standing is None:
                    time.sleep(_EXIT_S)
                return self._look() or sentence
            time.sleep(self._interval_s)
        return None

    def loss(self, sentence: str) -> PeerLost:
        """Return the error of what `blame` says, with the status of the rank that stopped."""
        heard = None if self._standing is None else self._verdict
        return PeerLost(sentence, EXIT_PEER_LOST if heard is None else heard.status)

    def close(self) -> None:
        """Stop watching: the run is over."""
        self._end_watch()
        self._guard.close()

    @property
    def _standing(self) -> str | None:
        """The verdict that this rank has heard, unless it is on this rank itself."""
        heard = self._verdict
        return None if heard is None or self._rank in heard.ranks else heard.sentence

    @property
    def _silence_s(self) -> float:
        """Seconds without a beat after which a rank counts as gone."""
        return 3 * self._period_s if self._is_alarm else self._most_silence_s

    @property
    def _interval_s(self) -> float:
        """Seconds between two looks."""
        return self._period_s / 4 if self._is_alarm else self._period_s

    def _end_watch(self) -> None:
        """End the thread: one that is in the store while Python exits aborts the process."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=20)

    def _call_roll(self) -> None:
        """Wait until all ranks are here.

        Raises:
            PeerLost: some do not come, or are gone again.
        """
        waited_s, last, pause_s = 0.0, time.monotonic(), _FIRST_ROLL_S
        while True:
            if sentence := self._look():
                raise self.loss(sentence)
            if self._is_complete:
                return
            now = time.monotonic()
            waited_s, last = waited_s + min(now - last, self._late_s), now
            if waited_s > self._timeout_s and (missing := self._missing()):
                names = ", ".join(map(self._describe_missing, missing))
                sentence = self._judge(
                    missing,
                    f"{names} did not start within engine.timeout_s = {self._timeout_s:g} s; the "
                    "launcher's output on that host may say why.",
                )
                time.sleep(_EXIT_S)  # for those who came later to read it: the store may be ours
                raise PeerLost(sentence)
            time.sleep(pause_s)
            pause_s = min(1.3 * pause_s, _MOST_ROLL_S)

    def _missing(self) -> list[int]:
        """Return the ranks that have not come."""
        self._identities |= self._board.roster()
        return [rank for rank in range(self._size) if rank not in self._identities]

    def _describe_missing(self, rank: int) -> str:
        """Return a missing rank's name with its host, if another rank of that host is known."""
        host = host_of(rank, self._size, self._identities) or "a host of which no rank came"
        return f"Rank {rank} (on {host})"

    def _watch(self) -> None:
        while not self._over.wait(self._interval_s):
            sentence = self._look()
            if sentence and not self._over.wait(self._grace_s):
                end_at_once(self.loss(sentence))  # the main thread waits for what will not come

    def _look(self) -> str | None:
        """Beat, look at the others and return a sentence on who is gone, if anyone is."""
        with self._lock:
            if self._standing is not None:  # the store may be gone by now, with rank 0
                return self._standing
            begin = time.monotonic()
            if begin - self._last_look > self._late_s:
                self._heartbeats.start_anew()
            verdict, has_store = None, True
            try:
                verdict = self._read()
            except RuntimeError:
                has_store = False
            now = self._last_look = time.monotonic()
            self._guard.note_answer()
            if now - begin > self._late_s:
                self._heartbeats.start_anew()
                if not has_store:  # its answer came while nobody listened
                    has_store = self._board.reconnect()
            if verdict is not None and self._rank not in verdict.ranks:
                self._hear(verdict)
                return verdict.sentence
            if (seen := self._see(has_store)) is None:
                return None
            with suppress(RuntimeError):
                sentence = self._judge(*seen)
                return None if self._rank in seen[0] else sentence
            return seen[1]

    def _read(self) -> Verdict | None:
        """Beat, note what the store says of others, and return its verdict."""
        self._num_beats += 1
        self._board.beat(self._num_beats, self._num_meetings)
        news = self._board.news(with_neighbours=not self._is_complete)
        self._is_alarm = self._is_alarm or news.is_alarm
        self._identities |= news.neighbours
        if self._rank == 0:
            if news.roll is None and not self._missing():
                self._board.end_roll()
            others = [rank for rank in self._identities if rank != 0]
            self._heartbeats.note(self._board.beats(others))
            self._heartbeats.note_meetings(0, self._num_meetings)
        elif news.leader is not None:
            self._heartbeats.note({0: news.leader})
        if news.roll is not None:
            self._identities[0] = news.roll
            self._is_complete = True
        return news.verdict

    def _see(self, has_store: bool) -> tuple[list[int], str] | None:
        """Return the ranks that are gone as far as this one can see, and the sentence on them."""
        gone = [r for r, identity in self._identities.items() if not is_alive(identity)]
        if gone:
            return gone, f"{self._name(gone)} ended unexpectedly; its own output may say why."
        if not has_store:
            return [0], f"{self._name([0])}, or the launcher that keeps the rendezvous, ended."
        if silent := self._heartbeats.silent(self._silence_s):
            reason = f"gave no sign of life for {self._silence_s:g} s."
            return silent, f"{self._name(silent)} {reason}"
        if self._rank == 0 and (behind := self._heartbeats.behind(self._size, self._timeout_s)):
            return behind, (
                f"{self._name(behind)} hangs: it lives, and has not come to where the others have "
                f"waited for it for engine.timeout_s = {self._timeout_s:g} s."
            )
        return None

    def _judge(self, ranks: list[int], sentence: str, status: int = EXIT_PEER_LOST) -> str:
        """Tell all who is gone; return the sentence that stands, which is the first one."""
        standing = self._board.judge(Verdict(tuple(ranks), sentence, status))
        self._hear(standing)
        return sentence if self._rank in standing.ranks else standing.sentence

    def _hear(self, verdict: Verdict) -> None:
        """Let rank 0 know, once, that this rank has read the verdict."""
        if self._verdict is None:
            self._verdict = verdict
            with suppress(RuntimeError):
                self._board.hear()

    def _wait_until_heard(self) -> None:
        """Wait until all ranks that live know the verdict, or should."""
        assert self._verdict is not None
        gone = {rank for rank in self._verdict.ranks if rank != self._rank}
        deadline = time.monotonic() + 2 * self._period_s
        while time.monotonic() < deadline:
            if self._board.num_heard() >= self._size - len(gone):
                return
            time.sleep(0.05)

    def _name(self, ranks: list[int]) -> str:
        identities = self._identities
        return ", ".join(
            f"Rank {rank}"
            + (
                f" (process {identities[rank].pid} on {identities[rank].host})"
                if rank in identities
                else ""
            )
            for rank in sorted(ranks)
        )
