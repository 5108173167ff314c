"""The peak memory of this process over a stretch of its run."""

from __future__ import annotations

import threading
from pathlib import Path

_STATUS = Path("/proc/self/status")
_PERIOD_S = 0.01


def now() -> dict[str, int]:
    """Return bytes in use: `rss`, of which `anon` are anonymous, and the RSS's peak `hwm`."""
    keys = {"VmRSS": "rss", "RssAnon": "anon", "VmHWM": "hwm"}
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {keys[w[0][:-1]]: int(w[1]) << 10 for w in lines if w and w[0][:-1] in keys}


class Peak:
    """Context that notes the peak above ``base``.

    Peak RSS is the kernel's own mark, reset on entry; anonymous memory has none and is
    sampled by a thread.

    Attributes:
        anon: Peak of anonymous memory above the base, in bytes.
        rss: Peak of resident memory above the base, in bytes.
    """

    def __init__(self, base: dict[str, int]) -> None:
        self._base, self._anon = base, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.anon = self.rss = 0

    def __enter__(self) -> Peak:
        """Reset the mark and start sampling."""
        Path("/proc/self/clear_refs").write_text("5")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and note the peaks."""
        self._over.set()
        self._thread.join()
        last = now()
        self.anon = max(self._anon, last["anon"]) - self._base["anon"]
        self.rss = last["hwm"] - self._base["rss"]

    def _sample(self) -> None:
        while not self._over.wait(_PERIOD_S):
            self._anon = max(self._anon, now()["anon"])
