"""What rank 0 says of steps: on the console, in `metrics.jsonl`, to the trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lope_dist.core.console import tell
from lope_dist.core.files import telling_disk_errors, write_atomic
from lope_dist.core.runlog import append_line
from lope_dist.core.side_files import METRICS
from lope_dist.train.checkpoint.validation import Measured
from lope_dist.train.stage.display import StageDisplay, memory_in_use
from lope_dist.train.trackers.base import Trackers

_DRIFT_STEPS = 10
"""The drift is measured this seldom, for its sum over the ranks is a message of its own."""


class MetricsLog:
    """Log of one stage; a silent no-op on every rank but the main one."""

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        num_steps: int,
        every: int,
        trackers: Trackers,
        on: bool,
        *,
        display: StageDisplay | None = None,
        is_folder_there: Callable[[], bool] = lambda: True,
        steps_before: int = 0,
    ) -> None:
        """Start a stage that ``steps_before`` steps of others precede."""
        self._path = run_dir / METRICS.name
        self._stage, self._every, self._on = stage, every, on
        self._num_steps, self._is_folder_there = num_steps, is_folder_there
        self._trackers, self._steps_before = trackers, steps_before
        self._display = display
        self._since, self._tokens = time.perf_counter(), 0

    def is_due(self, step: int) -> bool:
        """Return whether a step has a line; the same on every rank."""
        return (step + 1) % self._every == 0 or step + 1 == self._num_steps

    def has_drift(self, step: int) -> bool:
        """Return whether a step's line tells the drift: the first, the last and some between."""
        lines = -(-_DRIFT_STEPS // self._every)
        every = lines * self._every
        return self.is_due(step) and (
            step + 1 in (self._every, self._num_steps) or (step + 1) % every == 0
        )

    def step(self, step: int, tokens: int, values: dict[str, Any]) -> None:
        """Record one optimizer step; ``tokens`` are those of the whole global batch."""
        if not self._on:
            return
        self._tokens += tokens
        lr = max(values["lr"].values())
        if self._display is not None:
            self._display.step(step, values["loss"], lr, tokens)
        if not self.is_due(step) or not self._is_folder_there():
            return
        now = time.perf_counter()
        rate = self._tokens / max(now - self._since, 1e-9)
        self._since, self._tokens = now, 0
        record = {"stage": self._stage, "step": step, **values, "tokens": tokens}
        with telling_disk_errors(self._path):
            record |= {"tokens_per_s": rate, "memory_bytes": memory_in_use(), "time": time.time()}
            append_line(self._path, record)
        tracked = {"loss": values["loss"], "lr": values["lr"], "grad_norm": values["grad_norm"]}
        tracked |= {"tokens_per_s": rate, "drift": values.get("drift", {})}
        self._trackers.log(self._steps_before + step + 1, {self._stage: tracked})

    def validation(self, step: int, measured: Measured, num_examples: int, seconds: float) -> None:
        """Record the losses on the validation rows after a step, which took some seconds."""
        if not self._on or not self._is_folder_there():
            return
        self._since += seconds  # training's speed is that of its steps
        record = {"stage": self._stage, "step": step, "validation": measured.losses}
        record |= {"examples": num_examples, "target_tokens": measured.target_tokens}
        with telling_disk_errors(self._path):
            append_line(self._path, record | {"seconds": seconds, "time": time.time()})
        losses = ", ".join(f"{row} {loss:.4f}" for row, loss in measured.losses.items())
        tell(
            f"{time.strftime('%H:%M:%S')} {self._stage} {step + 1}/{self._num_steps} "
            f"validation loss {losses}"
        )
        tracked = {self._stage: {"validation": measured.losses}}
        self._trackers.log(self._steps_before + step + 1, tracked)

    def close(self) -> None:
        """End the display."""
        if self._display is not None:
            self._display.close()


def trim_metrics(run_dir: Path, done: Collection[str], stage: str | None, next_step: int) -> None:
    """Drop the lines of steps that a resume makes again.

    Kept are those of the stages that are ``done`` and, of ``stage``, of the steps before
    ``next_step``. A file with damaged lines is moved aside and reported.
    """
    path = run_dir / METRICS.name
    if path.exists():
        kept = [
            json.dumps(line) + "\n"
            for line in METRICS.recover(run_dir)
            if line["stage"] in done or (line["stage"] == stage and line["step"] < next_step)
        ]
        write_atomic(path, "".join(kept))
