"""Where a loaded weight goes: whole on this rank, or this rank's part of it.

The loader asks a placement which elements this rank keeps, reads and quantizes only
those, and hands them back. ZeRO-3's placement lives in `engine/`, with DeepSpeed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Placement(Protocol):
    """What the loader needs to know of ranks."""

    device: torch.device

    def span(self, numel: int) -> tuple[int, int]:
        """Return the flat elements [start, stop) that this rank keeps of a tensor."""
        ...

    def whole(self, part: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        """Join the ranks' parts of a flat tensor; ``spans[rank]`` is each one's range.

        Collective: yes.
        """
        ...

    def spans(self, numel: int) -> list[tuple[int, int]]:
        """Return `span` for each rank."""
        ...

    def place(self, parameter: nn.Parameter, part: Tensor, shape: torch.Size) -> None:
        """Give a parameter of ``shape`` its data, of which ``part`` is this rank's."""
        ...


class Replicated:
    """Every rank keeps everything (one process, ZeRO-2)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def span(self, numel: int) -> tuple[int, int]:
        """Return the whole range."""
        return 0, numel

    def spans(self, numel: int) -> list[tuple[int, int]]:
        """Return the one range."""
        return [(0, numel)]

    def whole(self, part: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        """Return ``part``, which is the whole."""
        return part

    def place(self, parameter: nn.Parameter, part: Tensor, shape: torch.Size) -> None:
        """Set the parameter's data."""
        parameter.data = part.view(shape)
