"""Engines that wrap another one: the average of what it trains, and AdaLoRA's ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lope_dist.adapters.rank_allocation import RankAllocation
from lope_dist.engine.base import OpenEngine

if TYPE_CHECKING:
    _AnyEngine = Any  # has all that the inner engine has
else:
    _AnyEngine = object

STEPPED = "stepped"
"""`<parameter>.stepped`: in a checkpoint, the weights that the optimizer steps."""
_STEPS = "ema.steps"


class EngineWrapper(_AnyEngine):
    """An `Engine` whose inner engine does whatever its own class does not define."""

    def __init__(self, engine: OpenEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class AveragingEngine(EngineWrapper):
    """An `Engine` that wraps another one, just built, and averages what it trains.

    The average is what a checkpoint's adapter holds, what is validated, and what the next stage
    begins with; the weights that are stepped are beside the optimizer's state. Each rank averages
    its part.

    `average <- d average + (1 - d) weights` after each step, with d the smaller of ``decay`` and
    `(1 + t) / (10 + t)` after t steps, so that a short stage does not stay at its beginning.

    Args:
        engine: What computes and steps.
        decay: From 0 to below 1.
    """

    def __init__(self, engine: OpenEngine, decay: float) -> None:
        super().__init__(engine)
        self._decay, self._steps = decay, 0
        self._average = {name: part.clone() for name, part in engine.rank_parts().items()}

    @torch.no_grad()
    def step(self, lr_factor: float) -> float:
        """Step, then average; return the gradient's norm."""
        norm = self._engine.step(lr_factor)
        if math.isfinite(norm):
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            self._steps += 1
            for name, part in self._engine.rank_parts().items():
                self._average[name].lerp_(part, 1 - decay)
        return norm

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole parameters by name, the average of those that train."""
        parameters = self._engine.gather(names)
        return parameters | {n: t for n, t in self._whole().items() if n in parameters}

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Context between steps in which the model is the average. Collective: yes."""
        stepped = self._engine.gather(list(self._average))
        self._engine.assign(self._whole())
        try:
            yield
        finally:
            self._engine.assign(stepped)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's state, the weights that it steps, and how often it has."""
        stepped = self._engine.gather(list(self._average))
        return {
            **self._engine.optimizer_state(),
            **{f"{name}.{STEPPED}": whole for name, whole in stepped.items()},
            _STEPS: torch.tensor(float(self._steps)),
        }

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over all of it; the model holds the average, as a checkpoint's adapter does."""
        state = dict(state)
        self._steps = int(state.pop(_STEPS))
        self._engine.assign({name: state.pop(f"{name}.{STEPPED}") for name in self._average})
        self._engine.load_optimizer_state(state)

    def close(self) -> None:
        """Let go of the model, and leave the average in it."""
        self._engine.assign(self._whole())
        self._engine.close()

    def _whole(self) -> dict[str, Tensor]:
        return self._engine.whole(self._average)


class AllocatingEngine(EngineWrapper):
    """An `Engine` that wraps another one and prunes AdaLoRA's ranks as it steps.

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
