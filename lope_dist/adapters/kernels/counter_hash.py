"""`adapters.counter_noise` inside a kernel: the same bits, never written to memory.

In uint32, where a shift to the right brings zeros in and products wrap as int32's do.

Shapes: P tokens of a block, C channels of a block.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lope_dist.adapters.counter_noise import GOLDEN, MULTIPLIERS

_GOLDEN = tl.constexpr(GOLDEN)
_FIRST, _SECOND = (tl.constexpr(value) for value in MULTIPLIERS)


@triton.jit
def _mix(x):
    x = x * _FIRST
    x = (x ^ (x >> 15)) * _SECOND
    return x ^ (x >> 16)


@triton.jit
def mixed_keys(keys_P, salt):
    """Return a token's part of the draw: uint32 (P,) of int32 keys and salt."""
    key_P = (keys_P ^ salt).to(tl.uint32, bitcast=True)
    return _mix(key_P ^ (key_P >> 16))


@triton.jit
def keeps(mixed_P, first_channel, dropped, CHANNELS: tl.constexpr):
    """Return which of the channels from an even one on are kept, bool (P, C).

    ``dropped``: of 65536 values, how many drop. Two channels share the 32 bits of one draw.
    """
    draw_C = first_channel // 2 + 1 + tl.arange(0, CHANNELS // 2)
    channel_C = draw_C.to(tl.uint32) * _GOLDEN
    channel_C = _mix(channel_C ^ (channel_C >> 16))
    bits = _mix(mixed_P[:, None] + channel_C[None, :])
    half_PC = tl.interleave(bits & 0xFFFF, bits >> 16)
    return (half_PC ^ 0x8000).to(tl.int32) >= dropped
