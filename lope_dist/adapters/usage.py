"""How much the router gave each expert, added up over the tokens of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lope_dist.adapters.lope import lope_layers

AddUp = Callable[[list[float]], list[float]]
"""Adds a list of numbers over ranks. Collective, if there are several."""


class RouterUsage:
    """The usage that a model's layers collect while `context.collect_router` is set."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = lope_layers(model)
        self._marked: dict[str, tuple[Tensor | None, Tensor | None]] = {}

    def mark(self) -> None:
        """Remember the sums as they are."""
        self._marked = {
            name: (layer.lope.usage_sum_E, layer.lope.usage_tokens)
            for name, layer in self._layers.items()
        }

    def roll_back(self) -> None:
        """Forget what was collected since `mark`."""
        for name, (sum_E, tokens) in self._marked.items():
            lope = self._layers[name].lope
            lope.usage_sum_E, lope.usage_tokens = sum_E, tokens

    def totals(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's summed weights, normal experts first, then its tokens.

        Layers that have seen no token yet are left out; that must be the same on all ranks.
        """
        names, numbers = [], []
        for name, layer in self._layers.items():
            sum_E, tokens = layer.lope.usage_sum_E, layer.lope.usage_tokens
            if sum_E is not None and tokens is not None:
                names.append(name)
                numbers += [*sum_E.tolist(), float(tokens)]
        totals = add_up(numbers)
        width = len(totals) // max(1, len(names))
        rows = [totals[i : i + width] for i in range(0, len(totals), width or 1)]
        return dict(zip(names, rows, strict=True))

    def restore(self, totals: Mapping[str, list[float]], holds: bool) -> None:
        """Go on from `totals`, which one rank ``holds`` for all; the others start from zero."""
        for name, (*weights, tokens) in totals.items():
            lope = self._layers[name].lope
            device, share = lope.A.device, float(holds)
            lope.usage_sum_E = torch.tensor(weights, dtype=torch.float32, device=device) * share
            lope.usage_tokens = torch.tensor(int(tokens * share), device=device)

    def means(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's mean weights, and start anew."""
        totals = self.totals(add_up)
        for layer in self._layers.values():
            layer.lope.usage_sum_E = layer.lope.usage_tokens = None
        return {
            name: [weight / max(1.0, tokens) for weight in weights]
            for name, (*weights, tokens) in totals.items()
        }
