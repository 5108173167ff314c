"""Where a loaded weight goes: whole on this rank, or this rank's part of it.

The loader asks a placement which elements this rank keeps, reads and quantizes only
those, and hands them back. ZeRO-3's placement lives in `engine/`, with DeepSpeed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Placement(Protocol):
    """What the loader needs to know of ranks.

    Attributes:
        device: Where this rank computes; what it keeps may be elsewhere.
    """

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

    def empty_part(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Return flat zeros for what this rank keeps of a tensor of ``numel`` elements.

        It may be longer than the rank's `span`; what is beyond is padding.
        """
        ...

    def place(self, parameter: nn.Parameter, part: Tensor, shape: torch.Size) -> None:
        """Give a parameter of ``shape`` its data: a filled `empty_part`, which is kept."""
        ...


class Replicated:
    """Every rank keeps everything (one process, ZeRO-2)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def span(self, numel: int) -> tuple[int, int]:
        """Return the whole range."""
        return 0, numel

    def spans(self, numel: int) -> list[tuple[int, int]]:
        """Return the range of the only rank."""
        return [(0, numel)]

    def whole(self, part: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        """Return ``part``, which is the whole."""
        return part

    def empty_part(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Return zeros for all elements."""
        return torch.zeros(numel, dtype=dtype, device=self.device)

    def place(self, parameter: nn.Parameter, part: Tensor, shape: torch.Size) -> None:
        """Set the parameter's data."""
        parameter.data = part.view(shape)
