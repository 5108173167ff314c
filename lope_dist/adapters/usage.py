"""How much the router gave each expert, added up over the tokens of a stage.

Of layers whose tokens carry marks of noise, also what the poisoning experts got of the corrupted
tokens; the rest of their weight went to the clean ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lope_dist.adapters.lope import lope_layers

AddUp = Callable[[list[float]], list[float]]
"""Adds a list of numbers over ranks. Collective, if there are several."""


_FIELDS = ("usage_sum_E", "usage_tokens", "corrupted_sum", "corrupted_tokens")


class RouterUsage:
    """The usage that a model's layers collect while `context.collect_router` is set."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = lope_layers(model)
        self._marked: dict[str, tuple[Tensor | None, ...]] = {}

    def mark(self) -> None:
        """Remember the sums as they are."""
        self._marked = {
            name: tuple(getattr(layer.lope, field) for field in _FIELDS)
            for name, layer in self._layers.items()
        }

    def roll_back(self) -> None:
        """Forget what was collected since `mark`."""
        for name, values in self._marked.items():
            for field, value in zip(_FIELDS, values, strict=True):
                setattr(self._layers[name].lope, field, value)

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

    def corrupted_totals(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's poisoning weight over corrupted tokens, and their number.

        As `totals`; layers whose tokens had no marks are left out.
        """
        sums = {
            name: (own.lope.corrupted_sum, own.lope.corrupted_tokens)
            for name, own in self._layers.items()
        }
        found = {n: (s, t) for n, (s, t) in sums.items() if s is not None and t is not None}
        totals = iter(add_up([float(value) for pair in found.values() for value in pair]))
        return {name: [next(totals), next(totals)] for name in found}

    def restore(
        self,
        totals: Mapping[str, list[float]],
        holds: bool,
        corrupted: Mapping[str, list[float]] = MappingProxyType({}),
    ) -> None:
        """Go on from `totals` and `corrupted_totals`.

        One rank ``holds`` them for all; the others start from zero.
        """
        for name, (weight, tokens) in corrupted.items():
            lope = self._layers[name].lope
            lope.corrupted_sum = torch.tensor(weight * float(holds), device=lope.A.device)
            lope.corrupted_tokens = torch.tensor(int(tokens * float(holds)), device=lope.A.device)
        for name, (*weights, tokens) in totals.items():
            lope = self._layers[name].lope
            device, share = lope.A.device, float(holds)
            lope.usage_sum_E = torch.tensor(weights, dtype=torch.float32, device=device) * share
            lope.usage_tokens = torch.tensor(int(tokens * share), device=device)

    def means(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's mean weights, and start anew."""
        totals = self.totals(add_up)
        for layer in self._layers.values():
            for field in _FIELDS:
                setattr(layer.lope, field, None)
        return {
            name: [weight / max(1.0, tokens) for weight in weights]
            for name, (*weights, tokens) in totals.items()
        }

    def poison_means(self, add_up: AddUp = list) -> dict[str, dict[str, float]] | None:
        """Return the poisoning experts' mean weight by layer, on `clean` and `corrupted` tokens.

        None where no token of the stage had a mark.
        """
        corrupted, totals = self.corrupted_totals(add_up), self.totals(add_up)
        means: dict[str, dict[str, float]] = {"clean": {}, "corrupted": {}}
        for name, (weight, tokens) in corrupted.items():
            *weights, all_tokens = totals[name]
            num_poison = self._layers[name].lope.config.num_poison
            rest = sum(weights[-num_poison:]) - weight
            means["clean"][name] = rest / max(1.0, all_tokens - tokens)
            means["corrupted"][name] = weight / max(1.0, tokens)
        return means if corrupted else None
