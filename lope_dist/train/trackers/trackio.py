"""trackio: a local database (`TRACKIO_DIR`), looked at with `trackio show`."""

from __future__ import annotations

from collections.abc import Mapping

from lope_dist.train.trackers.base import TRACKERS, TrackedRun, TrackerKind


class TrackioTracker:
    """A trackio run; project and name are its id."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self.run_id = run.known_id or run.name
        self._run = trackio.init(
            project=run.project,
            name=self.run_id,
            config=dict(run.config),
            resume="allow" if run.known_id else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        self._run.log(dict(values), step=step)

    def finish(self, is_finished: bool) -> None:
        """Write what is left."""
        self._run.finish()


TRACKERS.register("trackio")(TrackerKind("trackio", "trackio", TrackioTracker))
