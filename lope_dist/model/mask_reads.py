"""Attention masks without a look at the device.

Before it makes a mask, transformers reads of the batch whether one is needed: without padding and
packed examples the attention kernels know the causal mask themselves. To read a value is to wait
for all that the device still has to do. The host made the batch, so it knows.

While transformers traces a graph it cannot read, and makes every mask. A batch that needs its masks
is therefore handed over as if it were traced: the masks are the same. One that needs none is read
as ever, and keeps the faster kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor
from transformers import masking_utils

_TRACES = "is_tracing"
"""What `masking_utils` asks before each of its readings."""


def needs_masks(inputs: Mapping[str, Tensor]) -> bool:
    """Return whether each mask of a batch hides more than what comes later.

    On the host, before the batch moves.

    Args:
        inputs: What a model is called with; masks are 1 at real tokens.
    """
    masks = [mask for name, mask in inputs.items() if name.endswith("attention_mask")]
    if masks:
        return not any(bool(mask.all()) for mask in masks)
    positions_NT = inputs.get("position_ids")
    return positions_NT is not None and bool((positions_NT.diff(dim=-1) != 1).any())


@contextmanager
def without_reading(makes_masks: bool) -> Iterator[None]:
    """Context of a forward pass; with ``makes_masks`` its masks are made without a reading."""
    if not makes_masks:
        yield
        return
    before = getattr(masking_utils, _TRACES)
    setattr(masking_utils, _TRACES, lambda *args, **kwargs: True)
    try:
        yield
    finally:
        setattr(masking_utils, _TRACES, before)
