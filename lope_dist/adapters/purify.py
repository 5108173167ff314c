"""Remove the poisoning experts from a model, exactly: masked answers do not change."""

from __future__ import annotations

from torch import nn

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.lope import lope_layers
from lope_dist.core.errors import LopeError


def purify(model: nn.Module, context: AdapterContext) -> None:
    """Replace each layer's poisoning experts by the experts' Gram matrices, in place.

    The compensation needs no more of a poisoning expert than its inner products with the
    others, R x R numbers a pair. From then on the model answers masked, or as its base.

    Raises:
        LopeError: the model has no poisoning expert.
    """
    for layer in lope_layers(model).values():
        if not layer.lope.B.poison_names:
            raise LopeError(
                "There is no poisoning expert to remove (adapter.num_poison is 0): the adapter "
                "needs no purifying; export it as peft or merged."
            )
        layer.lope.B.purify()
    context.purify()
