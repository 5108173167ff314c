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


class RouterUsage:
    """The usage that a model's layers collect while the stage `collects_usage`.

    A layer's `usage` has, over real tokens and over corrupted ones, the sums of the router's
    weights, normal experts first, and behind them the number of tokens.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = lope_layers(model)
        self._marked: dict[str, tuple[Tensor | None, bool]] = {}

    def mark(self) -> None:
        """Remember the sums as they are."""
        self._marked = {
            name: (
                None if layer.lope.usage is None else layer.lope.usage.clone(),
                layer.lope.usage_knows_marks,
            )
            for name, layer in self._layers.items()
        }

    def roll_back(self) -> None:
        """Forget what was collected since `mark`."""
        for name, (usage, knows_marks) in self._marked.items():
            lope = self._layers[name].lope
            lope.usage = None if usage is None else usage.clone()
            lope.usage_knows_marks = knows_marks

    def totals(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's summed weights, normal experts first, then its tokens.

        Layers that have seen no token yet are left out; that must be the same on all ranks.
        """
        usages = self._usages()
        numbers = [number for usage in usages.values() for number in usage[0]]
        totals = add_up(numbers)
        width = len(totals) // max(1, len(usages))
        rows = [totals[i : i + width] for i in range(0, len(totals), width or 1)]
        return dict(zip(usages, rows, strict=True))

    def corrupted_totals(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's poisoning weight over corrupted tokens, and their number.

        As `totals`; layers whose tokens had no marks are left out.
        """
        sums = {
            name: (sum(usage[1][-1 - self._num_poison(name) : -1]), usage[1][-1])
            for name, usage in self._usages().items()
            if self._layers[name].lope.usage_knows_marks
        }
        totals = iter(add_up([value for pair in sums.values() for value in pair]))
        return {name: [next(totals), next(totals)] for name in sums}

    def restore(
        self,
        totals: Mapping[str, list[float]],
        holds: bool,
        corrupted: Mapping[str, list[float]] = MappingProxyType({}),
    ) -> None:
        """Go on from `totals` and `corrupted_totals`.

        One rank ``holds`` them for all; the others start from zero. Of the corrupted tokens only
        the poisoning experts' sum is known: the first one gets all of it.
        """
        for name, row in totals.items():
            lope = self._layers[name].lope
            rows = [row, [0.0] * len(row)]
            if name in corrupted:
                weight, tokens = corrupted[name]
                rows[1][-1 - self._num_poison(name)], rows[1][-1] = weight, tokens
            usage = torch.tensor(rows, dtype=torch.float32, device=lope.A.device)
            lope.usage, lope.usage_knows_marks = usage * float(holds), name in corrupted

    def _usages(self) -> dict[str, list[list[float]]]:
        """Return what every layer has collected; one wait for the device."""
        usages = {n: layer.lope.usage for n, layer in self._layers.items()}
        collected = {name: usage for name, usage in usages.items() if usage is not None}
        return (
            dict(zip(collected, torch.stack(list(collected.values())).tolist(), strict=True))
            if collected
            else {}
        )

    def _num_poison(self, name: str) -> int:
        return self._layers[name].lope.config.num_poison

    def means(self, add_up: AddUp = list) -> dict[str, list[float]]:
        """Return each layer's mean weights, and start anew."""
        totals = self.totals(add_up)
        for layer in self._layers.values():
            layer.lope.usage, layer.lope.usage_knows_marks = None, False
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
            rest = sum(weights[-self._num_poison(name) :]) - weight
            means["clean"][name] = rest / max(1.0, all_tokens - tokens)
            means["corrupted"][name] = weight / max(1.0, tokens)
        return means if corrupted else None
