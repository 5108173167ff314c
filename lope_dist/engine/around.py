"""An engine around another one: what a kind of its own does not change is the inner one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from lope_dist.engine.base import OpenEngine
from lope_dist.engine.groups import Group


class EngineAround:
    """An `Engine` that hands everything on; see there for what each does."""

    def __init__(self, engine: OpenEngine) -> None:
        self._engine = engine

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

    def step(self, lr_factor: float) -> float:
        """Step and return the gradient's norm."""
        return self._engine.step(lr_factor)

    def discard(self) -> None:
        """Drop the gradients of this step."""
        self._engine.discard()

    def groups_in_use(self) -> list[Group]:
        """Return the optimizer's groups."""
        return self._engine.groups_in_use()

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole parameters by name."""
        return self._engine.gather(names)

    def own_parts(self, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return this rank's part of each parameter that is stepped, or of these tensors."""
        return self._engine.own_parts(whole)

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors from the ranks' parts."""
        return self._engine.whole(parts)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's state by parameter name."""
        return self._engine.optimizer_state()

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `optimizer_state` returned."""
        self._engine.load_optimizer_state(state)

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()
