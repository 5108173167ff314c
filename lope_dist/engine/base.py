"""What the training loop asks of an engine; a stage has one engine of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from lope_dist.engine.groups import Group


class Engine(Protocol):
    """Runs forward and backward passes and optimizer steps of one stage."""

    @property
    def gradient_scale(self) -> float:
        """What `backward` multiplies a loss with, and a loss beside it must be multiplied with."""
        ...

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Return the model's output. Collective: yes."""
        ...

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients.

        ``loss`` is this micro-batch's part of a sum over all ranks and micro-batches of the
        step; ``is_last`` says that the step has no more of them. Collective: yes.
        """
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Context between steps in which `forward` keeps nothing for a backward pass.

        The engine's state afterwards is as it was. Collective: yes.
        """
        ...

    def as_saved(self) -> AbstractContextManager[None]:
        """Context between steps in which the model is what a checkpoint would hold.

        Collective: yes.
        """
        ...

    def step(self, lr_factor: float) -> float:
        """Step each group at its own lr times ``lr_factor``; return the gradient's norm.

        A norm that is not finite, the same on every rank, means that nothing was stepped: the
        gradients are dropped, weights and optimizer state are as before. Collective: yes.
        """
        ...

    def discard(self) -> None:
        """Drop the gradients of this step instead of stepping. Collective: yes."""
        ...

    def groups_in_use(self) -> list[Group]:
        """Return the optimizer groups as the optimizer itself holds them now."""
        ...

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole parameters by name, float32 on the host. Collective: yes."""
        ...

    def rank_parts(self, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return this rank's part of each trainable parameter, flat, on the device.

        Together the ranks hold each value once. They are views, to be asked for anew after a
        step. Given ``whole`` tensors by name, those parts of these instead.
        """
        ...

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors, float32 on the host, from what each rank has of them.

        The inverse of `rank_parts`. Collective: yes.
        """
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return AdamW's state of each trainable parameter, whole, float32 on the host.

        By `state_keys`: `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` of the parameter's shape
        and `<parameter>.step`, a scalar. Zeros before the first step. Collective: yes.
        """
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `optimizer_state` returned, of any engine and number of ranks.

        Collective: yes.

        Raises:
            LopeError: it is of other parameters or shapes than this stage trains.
        """
        ...

    def close(self) -> None:
        """Let go of the model, which stays usable for another engine. Collective: yes."""
        ...


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
