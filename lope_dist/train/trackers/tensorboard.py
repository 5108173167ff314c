"""TensorBoard: event files in `RUN/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping

from lope_dist.train.trackers.base import TRACKERS, TrackedRun, TrackerKind


class TensorBoardTracker:
    """Event files; steps that a resume makes again replace the first ones."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = "tensorboard"
        goes_on = run.known_id is not None
        purge = run.steps_done + 1 if goes_on else None
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def finish(self, is_finished: bool) -> None:
        """Close the file."""
        self._writer.close()


TRACKERS.register("tensorboard")(TrackerKind("tensorboard", "tensorboard", TensorBoardTracker))
