"""One process and plain PyTorch: the oracle that ZeRO must equal step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lope_dist.config.train import OptimizerConfig
from lope_dist.engine.groups import Group, describe_groups
from lope_dist.engine.optimizer import build_adamw, set_lr


class LocalEngine:
    """An `Engine` without DeepSpeed."""

    def __init__(
        self, model: nn.Module, groups: list[dict[str, Any]], optimizer: OptimizerConfig
    ) -> None:
        self._model = model
        self._optimizer = build_adamw(groups, optimizer)
        self._parameters = [p for group in groups for p in group["params"]]
        self._peaks = {group["name"]: group["lr"] for group in groups}
        self._max_norm = optimizer.max_grad_norm or float("inf")

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Return the model's output."""
        return self._model(**inputs, use_cache=False)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients."""
        loss.backward()

    def step(self, lr_factor: float) -> float:
        """Clip, step and clear; return the gradient's norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        set_lr(self._optimizer.param_groups, self._peaks, lr_factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def groups_in_use(self) -> list[Group]:
        """Return the optimizer's groups."""
        return describe_groups(self._optimizer.param_groups)

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return parameters by name, float32 on the host."""
        wanted = set(names)
        return {
            name: p.detach().float().cpu().clone()
            for name, p in self._model.named_parameters()
            if name in wanted
        }

    def close(self) -> None:
        """Drop the optimizer's state."""
        del self._optimizer
