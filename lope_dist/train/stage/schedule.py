"""Learning-rate factor of a step: warm-up, then constant or falling to zero."""

from __future__ import annotations

import math

from lope_dist.config.train import StageConfig


def lr_factor(stage: StageConfig, step: int, num_steps: int) -> float:
    """Return the factor on every group's peak lr at ``step`` (counted from 0).

    A pure function of its arguments, so a resumed run needs no scheduler state.
    """
    warmup = math.ceil(stage.warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if stage.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, num_steps - warmup)
    if stage.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
