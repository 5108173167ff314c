"""Give a model on the meta device the weights of a stock model, without files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lope_dist.model.nf4 import PackedWeight


def fill(ours: nn.Module, stock: nn.Module) -> dict[str, Tensor]:
    """Fill ``ours`` from ``stock``; return stock's names of what was quantized, dequantized.

    The expected values are made by bitsandbytes alone.
    """
    import bitsandbytes.functional as bnb
    import torch
    from torch import nn

    from lope_dist.model.nf4 import packed_weights

    source, rounded = dict(stock.named_parameters()), {}
    filled: dict[int, nn.Parameter] = {}
    for prefix, module in ours.named_modules():
        for attribute, old in list(module.named_parameters(recurse=False)):
            name = f"{prefix}.{attribute}" if prefix else attribute
            if id(old) not in filled:
                value = source[name].detach()
                if attribute in packed_weights(module):
                    packed = packed_weights(module)[attribute]
                    data, state = bnb.quantize_4bit(
                        value, quant_type="nf4", compress_statistics=packed.layout.nested
                    )
                    rounded[name] = bnb.dequantize_4bit(data, state)
                    value = pack(packed, value)
                filled[id(old)] = nn.Parameter(value.clone(), requires_grad=False)
            setattr(module, attribute, filled[id(old)])
    with torch.no_grad():
        for name, value in rounded.items():
            source[name].copy_(value)
    return rounded


def pack(packed: PackedWeight, value: Tensor) -> Tensor:
    """Return the flat parameter that holds a weight, and set its nested scales."""
    import torch

    from lope_dist.model.nf4 import quantize, quantize_scales

    layout = packed.layout
    data = torch.zeros(layout.num_elements, dtype=layout.storage, device=value.device)
    codes, scales = quantize(value.to(layout.storage).reshape(-1))
    if layout.nested:
        scales, packed.nested_scales = quantize_scales(scales)
    raw = torch.cat([codes, scales.view(torch.uint8)])
    data.view(torch.uint8)[: raw.numel()] = raw
    return data
