"""An engine that prunes AdaLoRA's ranks as it steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from lope_dist.adapters.rank_allocation import RankAllocation
from lope_dist.engine.base import Engine
from lope_dist.engine.groups import Group


class OpenEngine(Engine, Protocol):
    """An `Engine` that shows what it steps with and takes other values."""

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole gradients of trained parameters by name, float32 on the host.

        Between a step's last `backward` and `step`, not clipped. Collective: yes.
        """
        ...

    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite trained parameters, whole and the same on every rank, between steps.

        Their optimizer state stays as it is. Collective: yes.
        """
        ...


class AllocatingEngine:
    """An `Engine` around another one, of any kind.

    Args:
        engine: What computes and steps.
        names: AdaLoRA's parameters.
        allocation: What is pruned when.
    """

    def __init__(
        self, engine: OpenEngine, names: Sequence[str], allocation: RankAllocation
    ) -> None:
        self._engine, self._names, self._allocation = engine, list(names), allocation

    def step(self, lr_factor: float) -> float:
        """Step, then prune; return the gradient's norm."""
        names = self._names
        gradients = self._engine.gradients(names) if self._allocation.needs_gradients else {}
        norm = self._engine.step(lr_factor)
        if math.isfinite(norm):
            pruned = self._allocation.after_step(self._engine.gather(names), gradients)
            self._engine.assign(pruned)
        else:
            self._allocation.skip_step()
        return norm

    def discard(self) -> None:
        """Drop the gradients of this step."""
        self._engine.discard()
        self._allocation.skip_step()

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's state and the allocation's."""
        return {**self._engine.optimizer_state(), **self._allocation.state()}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over both."""
        self._engine.load_optimizer_state(self._allocation.load_state(state))

    @property
    def gradient_scale(self) -> float:
        """What `backward` multiplies a loss with."""
        return self._engine.gradient_scale

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Return the model's output."""
        return self._engine.forward(inputs)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients."""
        self._engine.backward(loss, is_last)

    def evaluating(self) -> AbstractContextManager[None]:
        """Context of forward passes without gradient."""
        return self._engine.evaluating()

    def as_saved(self) -> AbstractContextManager[None]:
        """Context in which the model is what a checkpoint would hold."""
        return self._engine.as_saved()

    def groups_in_use(self) -> list[Group]:
        """Return the optimizer's groups."""
        return self._engine.groups_in_use()

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return parameters by name."""
        return self._engine.gather(names)

    def own_parts(self, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return this rank's part of each parameter, or of these tensors."""
        return self._engine.own_parts(whole)

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors from the ranks' parts."""
        return self._engine.whole(parts)

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()
