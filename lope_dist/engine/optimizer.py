"""The optimizer that every engine uses, so that they can be compared step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lope_dist.config.train import OptimizerConfig
from lope_dist.core.errors import LopeError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means, one value of each for each weight."""
STEP = "step"
"""How often AdamW has stepped a parameter; its bias correction follows from it."""


def build_adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.AdamW:
    """Return torch's AdamW over the groups."""
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)


def set_lr(groups: list[dict[str, Any]], peaks: dict[str, float], factor: float) -> None:
    """Set each group's learning rate to its peak times the schedule's factor."""
    for group in groups:
        group["lr"] = peaks[group["name"]] * factor


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse optimizer state that is not of the parameters of ``shapes``.

    Raises:
        LopeError: a tensor too many, too few or of another shape; names the first.
    """
    expected: dict[str, torch.Size] = {}
    for name, shape in shapes.items():
        expected |= {f"{name}.{key}": shape for key in MOMENTS}
        expected[f"{name}.{STEP}"] = torch.Size()
    for name in sorted({*expected, *state}):
        has = list(state[name].shape) if name in state else "nothing"
        wants = list(expected[name]) if name in expected else "nothing"
        if has != wants:
            raise LopeError(
                f"The optimizer's state does not fit this stage: for '{name}' it has {has} where "
                f"{wants} is trained; was a file of the checkpoint replaced?"
            )
