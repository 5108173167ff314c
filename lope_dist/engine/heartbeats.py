"""Heartbeats of other ranks: which of them are silent, and for which of them the rest wait."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Heartbeats:
    """The last beat of each rank, with the time at which it was first seen.

    A beat is a count, which goes on while the process lives, and the number of meeting points that
    its main thread has come to.
    """

    def __init__(self) -> None:
        self._beats: dict[int, tuple[str, float]] = {}
        self._meetings: dict[int, tuple[int, float]] = {}

    def note(self, beats: Mapping[int, str]) -> None:
        """Note what the store says of some ranks now."""
        now = time.monotonic()
        for rank, beat in beats.items():
            if beat != self._beats.get(rank, ("", 0.0))[0]:
                self._beats[rank] = beat, now
            self.note_meetings(rank, int(beat.partition(" ")[2]))

    def note_meetings(self, rank: int, num_meetings: int) -> None:
        """Note how many meeting points a rank has come to."""
        if num_meetings != self._meetings.get(rank, (-1, 0.0))[0]:
            self._meetings[rank] = num_meetings, time.monotonic()

    def start_anew(self) -> None:
        """Count all silence from now on: this process was stopped and could not hear."""
        now = time.monotonic()
        self._beats = {rank: (beat, now) for rank, (beat, _) in self._beats.items()}
        self._meetings = {rank: (count, now) for rank, (count, _) in self._meetings.items()}

    def silent(self, for_s: float) -> list[int]:
        """Return the ranks whose beat has not changed for longer than ``for_s``."""
        now = time.monotonic()
        return [rank for rank, (_, since) in self._beats.items() if now - since > for_s]

    def behind(self, size: int, for_s: float) -> list[int]:
        """Return the ranks for which others have waited longer than ``for_s``.

        None before all ``size`` ranks have told how many meeting points they have come to.
        """
        if len(self._meetings) < size:
            return []
        furthest = max(count for count, _ in self._meetings.values())
        first = min(since for count, since in self._meetings.values() if count == furthest)
        if time.monotonic() - first <= for_s:
            return []
        return [rank for rank, (count, _) in self._meetings.items() if count < furthest]
