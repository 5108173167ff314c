"""Weights & Biases. `WANDB_MODE=offline` keeps the run in `RUN/wandb` for `wandb sync`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from lope_dist.core.console import tell
from lope_dist.train.trackers.base import TRACKERS, TrackedRun, TrackerKind

_START_LIMIT_S = 60


class WandbTracker:
    """A W&B run, which a resume goes on with."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.run_id = run.known_id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            tags=run.tags or None,
            config=dict(run.config),
            dir=str(run.folder),
            id=self.run_id,
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, init_timeout=_START_LIMIT_S),
        )
        if self._run.url:
            tell(f"W&B: {self._run.url}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        self._run.log(dict(values), step=step)

    def finish(self, is_finished: bool) -> None:
        """End the run; one that was stopped is marked as failed until it goes on."""
        self._run.finish(exit_code=0 if is_finished else 1)


TRACKERS.register("wandb")(TrackerKind("wandb", "wandb", WandbTracker))
