"""MLflow: the server that `MLFLOW_TRACKING_URI` names, else files in `RUN/mlruns`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from lope_dist.train.trackers.base import TRACKERS, TrackedRun, TrackerKind, flat_config

_LONGEST_VALUE, _BATCH = 500, 100  # what every MLflow server takes


class MlflowTracker:
    """An MLflow run, which a resume goes on with."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        if "MLFLOW_TRACKING_URI" not in os.environ:
            # MLflow refuses its own file store unless it is asked for by name.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.folder / "mlruns").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        if run.known_id is not None:
            self.run_id = run.known_id
            self._client.update_run(self.run_id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(run.project)
        number = experiment.experiment_id if experiment else None
        number = number or self._client.create_experiment(run.project)
        tags = {f"lope.{tag}": "true" for tag in run.tags}
        self.run_id = self._client.create_run(number, tags=tags, run_name=run.name).info.run_id
        settings = flat_config(run.config).items()
        params = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in settings]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + _BATCH])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step in one call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def finish(self, is_finished: bool) -> None:
        """End the run, as finished or as killed."""
        self._client.set_terminated(self.run_id, "FINISHED" if is_finished else "KILLED")


TRACKERS.register("mlflow")(TrackerKind("mlflow", "mlflow", MlflowTracker))
