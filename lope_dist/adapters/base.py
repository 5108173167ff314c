"""What every adapter module declares, so that freezing, checkpoints and counts know it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lope_dist.core.roles import Role


class AdapterModule(ABC):
    """A module of an adapted model, LoPE's or a baseline's, with parameters of its own."""

    wraps_a_layer = True
    """Whether it stands in the place of a layer of the model."""

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """Return the role of each adapter parameter, named relative to this module."""

    @abstractmethod
    def initial_values(self) -> dict[str, Tensor]:
        """Return the adapter's initial parameters, named relative to this module.

        A function of the seed and of names, so rank, device and order of creation change nothing.

        Shapes: float32 on the CPU.
        """


class BesideLayer(AdapterModule):
    """An adapter that stands in the place of a linear layer, which some models look at."""

    base: nn.Linear

    @property
    def weight(self) -> Tensor:
        """The base layer's weight."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        return self.base.bias


def adapter_modules(model: nn.Module) -> dict[str, AdapterModule]:
    """Return the adapter modules of a model by module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, AdapterModule)}
