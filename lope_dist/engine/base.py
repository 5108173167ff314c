"""What the training loop asks of an engine; a stage has one engine of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from lope_dist.engine.groups import Group


class Engine(Protocol):
    """Runs forward and backward passes and optimizer steps of one stage."""

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Return the model's output. Collective: yes."""
        ...

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients.

        ``loss`` is this micro-batch's part of a sum over all ranks and micro-batches of the
        step; ``is_last`` says that the step has no more of them. Collective: yes.
        """
        ...

    def step(self, lr_factor: float) -> float:
        """Step each group at its own lr times ``lr_factor``; return the gradient's norm.

        Collective: yes.
        """
        ...

    def groups_in_use(self) -> list[Group]:
        """Return the optimizer groups as the optimizer itself holds them now."""
        ...

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole parameters by name, float32 on the host. Collective: yes."""
        ...

    def close(self) -> None:
        """Let go of the model, which stays usable for another engine. Collective: yes."""
        ...
