"""Ends a process whose rendezvous store has fallen silent, as behind a cut cable.

A question to the store then waits for TCP to give up, a quarter of an hour, and so does everyone
who wants to ask.
"""

from __future__ import annotations

import threading
import time

from lope_dist.core.errors import PeerLost
from lope_dist.core.exits import end_at_once


class StoreGuard:
    """A thread that looks at the clock alone.

    Args:
        patience_s: How long the store may say nothing.
        period_s: How often to look.
        late_s: A look that is later than this shows that it was this process that stopped.
    """

    def __init__(self, patience_s: float, period_s: float, late_s: float) -> None:
        self._patience_s, self._period_s, self._late_s = patience_s, period_s, late_s
        self._answered = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lope-guard", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self.note_answer()
        self._thread.start()

    def note_answer(self) -> None:
        """Note that the store has answered."""
        self._answered = time.monotonic()

    def close(self) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._done.wait(self._period_s):
            now = time.monotonic()
            if now - last > self._late_s:
                self._answered = max(self._answered, now)
            last = now
            if now - self._answered > self._patience_s:
                end_at_once(
                    PeerLost(
                        "The host of rank 0, which keeps the rendezvous, or the network to it has "
                        f"not answered for {self._patience_s:g} s."
                    )
                )
