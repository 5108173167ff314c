"""An engine that prunes AdaLoRA's ranks as it steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from lope_dist.adapters.rank_allocation import RankAllocation
from lope_dist.engine.base import OpenEngine
from lope_dist.engine.wrapper import EngineWrapper


class AllocatingEngine(EngineWrapper):
    """An `Engine` that wraps another one, of any kind.

    Args:
        engine: What computes and steps.
        names: AdaLoRA's parameters.
        allocation: What is pruned when.
    """

    def __init__(
        self, engine: OpenEngine, names: Sequence[str], allocation: RankAllocation
    ) -> None:
        super().__init__(engine)
        self._names, self._allocation = list(names), allocation

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
        """Take over the optimizer's state and the allocation's."""
        self._engine.load_optimizer_state(self._allocation.load_state(state))
