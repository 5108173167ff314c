"""Tied parameters whose files hold them more than once.

A model that ties its output projection to its embeddings may still be saved with both. As
`from_pretrained` does, they are tied if the two are equal, and else are two parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from lope_dist.model.inventory import Slot
from lope_dist.model.origin import Origin, OriginReader
from lope_dist.model.placement import Placement


def settle_ties(
    model: PreTrainedModel,
    slots: list[Slot],
    read: Callable[[Origin], OriginReader],
    placement: Placement,
    chunk: int,
) -> list[Slot]:
    """Return the slots, with one more for each rival of a tied parameter that differs from it.

    Each rank compares the elements that it keeps, ``chunk`` at a time.

    Collective: yes, where the placement shards and the files hold a tied parameter twice.
    """
    return [settled for slot in slots for settled in _settle(model, slot, read, placement, chunk)]


def _settle(
    model: PreTrainedModel,
    slot: Slot,
    read: Callable[[Origin], OriginReader],
    placement: Placement,
    chunk: int,
) -> Iterator[Slot]:
    owners = dict(slot.owners)
    for name, rival in slot.rivals.items():
        if not _are_equal(read(slot.origin), read(rival), slot, placement, chunk):
            model.all_tied_weights_keys.pop(name, None)  # what saving leaves out
            yield replace(slot, origin=rival, owners={name: owners.pop(name)}, rivals={})
    yield replace(slot, owners=owners, rivals={})


def _are_equal(
    one: OriginReader, other: OriginReader, slot: Slot, placement: Placement, chunk: int
) -> bool:
    """Compare two parameters in the dtype that they are loaded in. Collective: see above."""
    spans = placement.spans(slot.origin.numel)
    start, stop = placement.span(slot.origin.numel)
    dtype = slot.origin.recipe.dtype
    equal = all(
        torch.equal(
            one.read(a, min(a + chunk, stop)).to(dtype),
            other.read(a, min(a + chunk, stop)).to(dtype),
        )
        for a in range(start, stop, chunk)
    )
    found = torch.tensor([float(equal)], device=placement.device)
    everyone = placement.whole(found, [(rank, rank + 1) for rank in range(len(spans))])
    return bool(everyone.all())
