"""One process and plain PyTorch: the oracle that ZeRO must equal step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lope_dist.config.train import OptimizerConfig
from lope_dist.engine.groups import Group, describe_groups
from lope_dist.engine.optimizer import MOMENTS, STEP, build_adamw, check_state, set_lr


class LocalEngine:
    """An `Engine` without DeepSpeed."""

    def __init__(
        self, model: nn.Module, groups: list[dict[str, Any]], optimizer: OptimizerConfig
    ) -> None:
        self._model = model
        self._optimizer = build_adamw(groups, optimizer)
        names = {id(p): name for name, p in model.named_parameters()}
        self._parameters = {names[id(p)]: p for group in groups for p in group["params"]}
        self._peaks = {group["name"]: group["lr"] for group in groups}
        self._max_norm = optimizer.max_grad_norm or float("inf")

    @property
    def gradient_scale(self) -> float:
        """Losses are taken as they are."""
        return 1.0

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Return the model's output."""
        return self._model(**inputs, use_cache=False)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients."""
        loss.backward()

    def evaluating(self) -> AbstractContextManager[None]:
        """Context of forward passes without gradient."""
        return torch.no_grad()

    def as_saved(self) -> AbstractContextManager[None]:
        """Context in which nothing is changed: what is stepped is saved."""
        return nullcontext()

    def step(self, lr_factor: float) -> float:
        """Clip, step and clear; return the gradient's norm before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._max_norm))
        set_lr(self._optimizer.param_groups, self._peaks, lr_factor)
        if math.isfinite(norm):
            self._optimizer.step()
        self.discard()
        return norm

    def discard(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def groups_in_use(self) -> list[Group]:
        """Return the optimizer's groups."""
        return describe_groups(self._optimizer.param_groups)

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return parameters by name, float32 on the host."""
        requested = set(names)
        return {
            name: p.detach().float().cpu().clone()
            for name, p in self._model.named_parameters()
            if name in requested
        }

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return gradients by name, float32 on the host; zero where there is none."""
        parameters = {name: self._parameters[name] for name in names}
        return {
            name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().float().cpu().clone()
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite parameters."""
        for name, value in values.items():
            self._parameters[name].copy_(value)

    def rank_parts(self, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the trainable parameters, or these tensors in their place, flat."""
        return {
            name: (parameter if whole is None else whole[name]).detach().flatten()
            for name, parameter in self._parameters.items()
        }

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what `rank_parts` gave, in shape and on the host."""
        return {
            name: part.float().cpu().view(self._parameters[name].shape)
            for name, part in parts.items()
        }

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return AdamW's state by parameter name, on the host."""
        state = {}
        for name, parameter in self._parameters.items():
            held = self._optimizer.state.get(parameter) or _fresh_state(parameter)
            for key in (*MOMENTS, STEP):
                state[f"{name}.{key}"] = held[key].detach().float().cpu().clone()
        return state

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over AdamW's state."""
        check_state(state, {name: p.shape for name, p in self._parameters.items()})
        for name, parameter in self._parameters.items():
            held = _fresh_state(parameter)
            for key in (*MOMENTS, STEP):
                held[key].copy_(state[f"{name}.{key}"])
            self._optimizer.state[parameter] = held

    def close(self) -> None:
        """Drop the optimizer's state."""
        del self._optimizer


def _fresh_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return AdamW's state before the first step, as torch lays it out."""
    state = {key: torch.zeros_like(parameter) for key in MOMENTS}
    return {STEP: torch.zeros(()), **state}
