"""How long other ranks have been silent, or have not come to where the rest wait."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Lives:
    """Beats of ranks, each with the time at which it was first seen.

    A beat is a count, which goes on while the process lives, and a place: the number of meeting
    points that its main thread has come to.
    """

    def __init__(self) -> None:
        self._beats: dict[int, tuple[str, float]] = {}
        self._places: dict[int, tuple[int, float]] = {}

    def note(self, beats: Mapping[int, str]) -> None:
        """Note what the store says of some ranks now."""
        now = time.monotonic()
        for rank, beat in beats.items():
            if beat != self._beats.get(rank, ("", 0.0))[0]:
                self._beats[rank] = beat, now
            self.note_place(rank, int(beat.partition(" ")[2]))

    def note_place(self, rank: int, place: int) -> None:
        """Note how many meeting points a rank has come to."""
        if place != self._places.get(rank, (-1, 0.0))[0]:
            self._places[rank] = place, time.monotonic()

    def start_anew(self) -> None:
        """Forget how long ranks have been silent: this process was not there to hear."""
        now = time.monotonic()
        self._beats = {rank: (beat, now) for rank, (beat, _) in self._beats.items()}
        self._places = {rank: (place, now) for rank, (place, _) in self._places.items()}

    def silent(self, for_s: float) -> list[int]:
        """Return the ranks whose beat has not changed for longer than ``for_s``."""
        now = time.monotonic()
        return [rank for rank, (_, since) in self._beats.items() if now - since > for_s]

    def behind(self, size: int, for_s: float) -> list[int]:
        """Return the ranks for which others have waited longer than ``for_s``.

        None before the places of all ``size`` ranks are known.
        """
        if len(self._places) < size:
            return []
        furthest = max(place for place, _ in self._places.values())
        first = min(since for place, since in self._places.values() if place == furthest)
        if time.monotonic() - first <= for_s:
            return []
        return [rank for rank, (place, _) in self._places.items() if place < furthest]
