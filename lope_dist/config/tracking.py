"""`train.tracking`: how the trackers of `train.trackers` name a run."""

from __future__ import annotations

from typing import Literal

from lope_dist.config.base import Section

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class TrackingConfig(Section):
    """What a run is called where its trackers keep it."""

    project: str = "lope_dist"
    """Project (W&B, trackio) or experiment (MLflow)."""
    name: str | None = None
    """The run's name; default the last part of `output_dir`."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""
