"""A 4-bit linear layer that ZeRO-3 can free and that an evaluation leaves untouched.

bitsandbytes' own `Linear4bit` has two habits that break sharded training:

* its autograd function keeps a *view* of the gathered weight until the backward pass, so
  ZeRO-3 frees nothing: every rank ends up with the whole quantized model. Ours keeps the
  parameter object and reads its data again in the backward pass, after the gather;
* on some CPUs its first evaluation forward repacks the weight *in place* and changes the
  quantization state, so that training after it computes with garbage. Ours never repacks.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor

BLOCK = 64
"""Weights that share one scale (QLoRA, section 3)."""
NESTED_BLOCK = 256
"""Scales that share one scale of scales (double quantization)."""
_CHUNK = 1 << 22  # bitsandbytes' CPU kernel takes about 20 bytes of temporaries a weight


class NF4Linear(Linear4bit):
    """Linear layer whose weight is packed NF4; frozen.

    The packed weight is stored as `compute_dtype` (`quant_storage`), so that ZeRO-3
    partitions and gathers it together with the unquantized parameters.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, nested: bool
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            bias=bias,
            compute_dtype=dtype,
            compress_statistics=nested,
            quant_type="nf4",
            quant_storage=dtype,
            device="meta",
        )
        self.support_avx512bf16_for_cpu = False  # the flag behind the repacking
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute `x W^T + b` in `compute_dtype`.

        Shapes: x `(..., in_features)`, result `(..., out_features)` in x's dtype.
        """
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        y = _MatMulNF4.apply(x.to(self.compute_dtype), self.weight, bias)
        return y.to(x.dtype)  # type: ignore[union-attr]


class _MatMulNF4(torch.autograd.Function):
    """`x W^T + b` with W dequantized in the kernel; the gradient flows to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Params4bit, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # the parameter, never its data: see the module's docstring
        state = weight.quant_state
        packed = weight.data.view(-1, 1)
        if not state.nested:
            return torch.ops.bitsandbytes.gemm_4bit.default(
                x, packed, state.shape, state.absmax, BLOCK, "nf4", bias=bias
            )
        return torch.ops.bitsandbytes.gemm_4bit.default(
            x,
            packed,
            state.shape,
            state.state2.absmax,
            BLOCK,
            "nf4",
            bias=bias,
            absmax_8bit=state.absmax,
            absmax_code=state.state2.code,
            absmax_offset=state.offset,
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad_y,) = grads
        if not ctx.needs_input_grad[0]:
            return None, None, None
        data = ctx.weight.data
        assert data.numel() > 0, "the weight was not gathered for the backward pass"
        weight = bnb.dequantize_4bit(data.view(-1, 1), ctx.weight.quant_state)
        return grad_y @ weight.to(grad_y.dtype), None, None


def values_per_element(storage: torch.dtype) -> int:
    """Return how many 4-bit weights one element of the packed storage holds."""
    return storage.itemsize * 2


def quantize_flat(flat: Tensor, storage: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantize a flat run of weights, a chunk at a time.

    Shapes: flat `(n,)`, n a multiple of 64; packed `(n / values_per_element,)` of dtype
    ``storage``; absmax float32 `(n / 64,)`. Bit-equal to quantizing the whole tensor,
    because a block of 64 depends on nothing outside it.
    """
    assert flat.numel() % BLOCK == 0, "a run must hold whole blocks of 64 weights"
    per = values_per_element(storage)
    packed = torch.empty(flat.numel() // per, dtype=storage, device=flat.device)
    absmax = torch.empty(flat.numel() // BLOCK, dtype=torch.float32, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        q, scales = torch.ops.bitsandbytes.quantize_4bit.default(chunk, BLOCK, "nf4", storage)
        packed[start // per : (start + chunk.numel()) // per] = q.view(-1)
        absmax[start // BLOCK : (start + chunk.numel()) // BLOCK] = scales
    return packed, absmax


def quant_state(
    absmax: Tensor, shape: torch.Size, dtype: torch.dtype, nested: bool
) -> bnb.QuantState:
    """Return the quantization state for the scales of a whole tensor.

    Shapes: absmax float32 `(n / 64,)` of all blocks; shape is the unpacked weight's.
    """
    code = bnb.get_4bit_type("nf4", device=absmax.device)
    if not nested:
        return bnb.QuantState(
            absmax=absmax, shape=shape, dtype=dtype, blocksize=BLOCK, code=code, quant_type="nf4"
        )
    offset = absmax.mean()
    absmax_8bit, state2 = bnb.quantize_blockwise(absmax - offset, blocksize=NESTED_BLOCK)
    return bnb.QuantState(
        absmax=absmax_8bit,
        shape=shape,
        dtype=dtype,
        blocksize=BLOCK,
        code=code,
        quant_type="nf4",
        offset=offset,
        state2=state2,
    )


def packed_parameter(data: Tensor, layer: NF4Linear, state: bnb.QuantState) -> Params4bit:
    """Return the layer's weight around packed ``data`` `(n, 1)`, already quantized."""
    layer.quant_state = state
    return Params4bit(
        data,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=state.nested,
        quant_type="nf4",
        quant_storage=layer.quant_storage,
        module=layer,
        bnb_quantized=True,
    )
