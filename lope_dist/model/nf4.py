"""A 4-bit linear layer that ZeRO-3 can shard whole and free, and that evaluation leaves alone.

bitsandbytes' own `Linear4bit` has three habits that break sharded training:

* its autograd function keeps a *view* of the gathered weight until the backward pass, so
  ZeRO-3 frees nothing: every rank ends up with the whole quantized model. Ours keeps the
  layer and reads its weight again in the backward pass, after the gather;
* on some CPUs its first evaluation forward repacks the weight *in place* and changes the
  quantization state, so that training after it computes with garbage. Ours never repacks;
* its scales live beside the weight, whole on every rank. Ours ride behind the packed
  weights in the same parameter (`nf4_layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import bitsandbytes.functional as bnb
import torch
from torch import Tensor, nn

from lope_dist.model.nf4_cpu import quantize_on_cpu
from lope_dist.model.nf4_layout import BLOCK, PackedLayout

NESTED_BLOCK = 256
"""Scales that share one scale of scales (double quantization)."""
_MOST_AT_ONCE = 1 << 30
"""Weights, in whole blocks: bitsandbytes counts them in 32 bits on a GPU."""


@dataclass(frozen=True)
class NestedScales:
    """What turns the byte scales into float32: `code[byte] * absmax[i // 256] + offset`.

    One float for 16,384 weights: replicated on every rank.

    Shapes: absmax float32 `(ceil(num_blocks / 256),)`, code float32 `(256,)`, offset `()`.
    """

    absmax: Tensor
    code: Tensor
    offset: Tensor


@dataclass
class PackedWeight:
    """How one weight of a module is packed; the bytes are the module's parameter of its name.

    Attributes:
        shape: The weight's shape as its module computes with it.
        layout: Where weights and scales lie in the parameter.
        nested_scales: Set when the weight is loaded, with double quantization.
    """

    shape: torch.Size
    layout: PackedLayout
    nested_scales: NestedScales | None = None

    def split(self, data: Tensor) -> tuple[Tensor, bnb.QuantState]:
        """Return the packed weights and bitsandbytes' description of them.

        Both are views of ``data``, the gathered parameter's: use them and let them go, or ZeRO-3
        cannot free it.

        Shapes: data `(layout.num_elements,)`; packed uint8 `(numel / 2, 1)`.
        """
        flat, layout = data.view(-1), self.layout
        assert flat.numel() == layout.num_elements, "the weight is not gathered"
        raw = flat.view(torch.uint8)
        packed, scales = raw.split_with_sizes(
            [layout.packed_bytes, raw.numel() - layout.packed_bytes]
        )
        scales = scales[: layout.scale_bytes]
        common = {
            "shape": self.shape,
            "dtype": layout.storage,
            "blocksize": BLOCK,
            "code": nf4_code(flat.device),
            "quant_type": "nf4",
        }
        if not layout.nested:
            # A copy: a float32 view would need an alignment that a gather does not promise.
            return packed.view(-1, 1), bnb.QuantState(
                absmax=scales.clone().view(torch.float32), **common
            )
        nested = self.nested_scales
        assert nested is not None, "the weight is not loaded"
        state2 = bnb.QuantState(
            absmax=nested.absmax, blocksize=NESTED_BLOCK, code=nested.code, dtype=torch.float32
        )
        return packed.view(-1, 1), bnb.QuantState(
            absmax=scales, offset=nested.offset, state2=state2, **common
        )

    def dequantize(self, data: Tensor) -> Tensor:
        """Return the weight of ``shape`` in the storage's dtype; ``data`` as for `split`."""
        numel = self.layout.numel
        if numel <= _MOST_AT_ONCE:
            return bnb.dequantize_4bit(*self.split(data))
        whole = torch.empty(numel, dtype=self.layout.storage, device=data.device)
        for start in range(0, numel, _MOST_AT_ONCE):
            stop = min(start + _MOST_AT_ONCE, numel)
            part, first = self.dequantize_part(data, start, stop)
            whole[start:stop] = part[start - first : stop - first]
        return whole.view(self.shape)

    def dequantize_part(self, data: Tensor, start: int, stop: int) -> tuple[Tensor, int]:
        """Return a run of the flat weight that holds elements [start, stop), and its begin.

        Bit-equal to that part of `dequantize`; ``data`` as for `split`.
        """
        if stop - start == self.layout.numel:
            return self.dequantize(data).view(-1), 0
        state: Any
        packed, state = self.split(data)
        # Whole blocks of scales, which hold whole blocks of weights.
        per = BLOCK * (NESTED_BLOCK if state.state2 is not None else 1)
        first, last = start // per * per, min(-(-stop // per) * per, self.layout.numel)
        state.shape = torch.Size((last - first,))
        state.absmax = state.absmax[first // BLOCK : last // BLOCK]
        if state.state2 is not None:
            size = BLOCK * NESTED_BLOCK
            state.state2.absmax = state.state2.absmax[first // size : -(-last // size)]
        packed = packed[first // 2 : last // 2]
        return bnb.dequantize_4bit(packed, state).view(-1), first


def packed_weights(module: nn.Module) -> dict[str, PackedWeight]:
    """Return which of a module's own parameters are packed NF4, by name."""
    return getattr(module, "packed_weights", {})


class NF4Linear(nn.Linear):
    """Linear layer whose weight is packed NF4 with its scales; frozen.

    The weight is stored as `compute_dtype`, so that ZeRO-3 partitions and gathers it
    together with the unquantized parameters. On the meta device it has the shape
    `(out_features, in_features)`; loaded, `(layout.num_elements,)`.
    """

    is_product = True

    def __init__(
        self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, nested: bool
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta", dtype=dtype)
        self.compute_dtype = dtype
        layout = PackedLayout(in_features * out_features, dtype, nested)
        self.packed_weights = {"weight": PackedWeight(self.weight.shape, layout)}
        self.requires_grad_(False)

    @property
    def layout(self) -> PackedLayout:
        """Where weights and scales lie in the parameter."""
        return self.packed_weights["weight"].layout

    @property
    def nested_scales(self) -> NestedScales | None:
        """The scales of the scales, once loaded with double quantization."""
        return self.packed_weights["weight"].nested_scales

    @nested_scales.setter
    def nested_scales(self, value: NestedScales | None) -> None:
        self.packed_weights["weight"].nested_scales = value

    def forward(self, x: Tensor) -> Tensor:
        """Compute `x W^T + b` in `compute_dtype`.

        Shapes: x `(..., in_features)`, result `(..., out_features)` in x's dtype.
        """
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        y = _MatMulNF4.apply(x.to(self.compute_dtype), self, bias)
        return y.to(x.dtype)  # type: ignore[union-attr]

    def packed(self) -> tuple[Tensor, bnb.QuantState]:
        """Return `PackedWeight.split` of the gathered weight."""
        return self.packed_weights["weight"].split(self.weight.data)

    def dequantized(self) -> Tensor:
        """Return the weight in `compute_dtype`, `(out_features, in_features)`; gathered."""
        return self.packed_weights["weight"].dequantize(self.weight.data)


class _MatMulNF4(torch.autograd.Function):
    """`x W^T + b` with W dequantized in the kernel; the gradient flows to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear, bias: Tensor | None) -> Tensor:
        ctx.layer = layer  # the layer, never its weight's data: see the module's docstring
        state: Any
        packed, state = layer.packed()
        absmax: Any = state.absmax
        nested: dict[str, Any] = {}
        if state.state2 is not None:
            absmax = state.state2.absmax
            nested = {
                "absmax_8bit": state.absmax,
                "absmax_code": state.state2.code,
                "absmax_offset": state.offset,
            }
        return torch.ops.bitsandbytes.gemm_4bit.default(
            x, packed, state.shape, absmax, BLOCK, "nf4", bias=bias, **nested
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad_y,) = grads
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return grad_y @ ctx.layer.dequantized().to(grad_y.dtype), None, None


@cache
def nf4_code(device: torch.device) -> Tensor:
    """Return NF4's 16 values (QLoRA, appendix E)."""
    return bnb.get_4bit_type("nf4", device=device)


def quantize(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a flat run of whole blocks.

    Bit-equal to the same part of the quantized whole, because a block of 64 depends on
    nothing outside it.

    Shapes: flat `(n,)`, n a multiple of 64; packed uint8 `(n / 2,)`; absmax float32 `(n / 64,)`.
    """
    assert flat.numel() % BLOCK == 0, "a run must hold whole blocks of 64 weights"
    if flat.device.type == "cpu":
        return quantize_on_cpu(flat, _borders())
    packed, absmax = torch.ops.bitsandbytes.quantize_4bit.default(flat, BLOCK, "nf4", torch.uint8)
    return packed.view(-1), absmax


@cache
def _borders() -> list[float]:
    """Return the values midway between NF4's, in float32 as bitsandbytes computes them."""
    code = nf4_code(torch.device("cpu"))
    return ((code[:-1] + code[1:]) / 2).tolist()


def quantize_scales(absmax: Tensor) -> tuple[Tensor, NestedScales]:
    """Quantize the scales of a whole tensor to bytes; their offset is the mean of all.

    Shapes: absmax float32 `(n / 64,)`; result uint8 `(n / 64,)`.
    """
    offset, code = absmax.mean(), _dynamic_code(absmax.device)
    state: Any
    codes, state = bnb.quantize_blockwise(absmax - offset, code=code, blocksize=NESTED_BLOCK)
    return codes, NestedScales(state.absmax, code, offset)


@cache
def _dynamic_code(device: torch.device) -> Tensor:
    """Return the 256 values of bitsandbytes' dynamic map, one copy for all layers.

    It is given to bitsandbytes, whose own copy stays on the device that first asked for it: after
    a model on the meta device that one would hold no values.
    """
    with torch.device("cpu"):
        return bnb.create_dynamic_map().to(device)
