"""What rank 0 tells: a progress bar, `metrics.jsonl`, TensorBoard on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lope_dist.core.errors import LopeError
from lope_dist.core.files import telling_disk_errors, write_atomic
from lope_dist.core.runlog import append_line
from lope_dist.core.side_files import METRICS


class MetricsLog:
    """Log of one stage; a silent no-op on every rank but the main one."""

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        num_steps: int,
        every: int,
        tensorboard: bool,
        on: bool,
        first: int = 0,
        is_folder_there: Callable[[], bool] = lambda: True,
    ) -> None:
        self._path = run_dir / METRICS.name
        self._stage, self._every, self._on = stage, every, on
        self._num_steps, self._is_folder_there = num_steps, is_folder_there
        self._writer = _tensorboard_writer(run_dir, stage, first) if tensorboard and on else None
        self._bar = tqdm(
            total=num_steps,
            initial=first,
            desc=f"Stage {stage}",
            unit="step",
            disable=not on,
            mininterval=0.2 if sys.stderr.isatty() else 15.0,  # a log file wants few lines
        )
        self._since, self._tokens = time.perf_counter(), 0

    def is_due(self, step: int) -> bool:
        """Return whether a step has a line; the same on every rank."""
        return (step + 1) % self._every == 0 or step + 1 == self._num_steps

    def step(self, step: int, tokens: int, values: dict[str, Any]) -> None:
        """Record one optimizer step; ``tokens`` are those of the whole global batch."""
        if not self._on:
            return
        self._tokens += tokens
        self._bar.update(1)
        if not self.is_due(step) or not self._is_folder_there():
            return
        now = time.perf_counter()
        rate = self._tokens / max(now - self._since, 1e-9)
        self._since, self._tokens = now, 0
        record = {"stage": self._stage, "step": step, **values, "tokens": tokens}
        with telling_disk_errors(self._path):
            append_line(self._path, record | {"tokens_per_s": rate, "time": time.time()})
        lr = max(values["lr"].values())
        self._bar.set_postfix_str(
            f"loss {values['loss']:.4f}, lr {lr:.1e}, {rate:.0f} tokens/s", refresh=False
        )
        if self._writer is not None:
            self._write_scalars(step, values, rate)

    def close(self) -> None:
        """End the bar and the writer."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _write_scalars(self, step: int, values: dict[str, Any], rate: float) -> None:
        assert self._writer is not None
        self._writer.add_scalar("loss", values["loss"], step)
        self._writer.add_scalar("grad_norm", values["grad_norm"], step)
        self._writer.add_scalar("tokens_per_s", rate, step)
        for role, lr in values["lr"].items():
            self._writer.add_scalar(f"lr/{role}", lr, step)
        for role, change in values.get("drift", {}).items():
            self._writer.add_scalar(f"drift/{role}", change, step)


def trim_metrics(run_dir: Path, done: Collection[str], stage: str | None, next_step: int) -> None:
    """Drop the lines of steps that a resume makes again.

    Kept are those of the stages that are ``done`` and, of ``stage``, of the steps before
    ``next_step``. A file with damaged lines is put aside, and told.
    """
    path = run_dir / METRICS.name
    if path.exists():
        kept = [
            json.dumps(line) + "\n"
            for line in METRICS.recover(run_dir)
            if line["stage"] in done or (line["stage"] == stage and line["step"] < next_step)
        ]
        write_atomic(path, "".join(kept))


def _tensorboard_writer(run_dir: Path, stage: str, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise LopeError(
            "train.tensorboard needs the extra: pip install 'lope-dist[tensorboard]'."
        ) from None
    folder = str(run_dir / "tensorboard" / stage)
    return SummaryWriter(folder, purge_step=first or None)  # steps that a resume makes again
