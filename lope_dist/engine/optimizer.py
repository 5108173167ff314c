"""The optimizer that every engine uses, so that they can be compared step by step."""

from __future__ import annotations

from typing import Any

import torch

from lope_dist.config.train import OptimizerConfig


def build_adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.AdamW:
    """Return torch's AdamW over the groups."""
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)


def set_lr(groups: list[dict[str, Any]], peaks: dict[str, float], factor: float) -> None:
    """Set each group's learning rate to its peak times the schedule's factor."""
    for group in groups:
        group["lr"] = peaks[group["name"]] * factor
