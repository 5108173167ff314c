"""Random numbers as a pure function of (token key, salt, channel).

torch's generators depend on the device, the batch's shape and everything drawn before. Here
each token brings its own key (`core.seeds.token_keys`), so noise and dropout of an example
are the same on CPU and CUDA, for any batch split, packing, padding or number of ranks, and
may be computed again in the backward pass instead of being kept. `kernels.counter_hash` draws the
same bits inside a kernel.

All arithmetic is int32, which wraps alike on every device.

Shapes: N batch, T tokens, W width (channels).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lope_dist.core.seeds import derive_key

GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive channels
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)  # the odd constants of the "lowbias32" mixer


def salt_of(seed: int, name: str) -> int:
    """Return the 32-bit salt of one use of randomness, for example a layer's dropout."""
    return derive_key(seed, f"salt:{name}") & 0xFFFFFFFF


def uniform_bits(token_keys_NT: Tensor, salt: int, width: int) -> Tensor:
    """Return 32 random bits for each token and channel.

    Token and channel are mixed apart, which is cheap, and their sum once more.

    Shapes: int32 (N, T) -> int32 (N, T, W).
    """
    assert token_keys_NT.dtype == torch.int32, "token keys are int32"
    key_NT = _mix_(_fold_(token_keys_NT.bitwise_xor(signed(salt)), 16))
    channel_W = torch.arange(1, width + 1, dtype=torch.int32, device=token_keys_NT.device)
    channel_W = _mix_(_fold_(channel_W.mul_(signed(GOLDEN)), 16))
    return _mix_(key_NT.unsqueeze(-1) + channel_W)


def uniform(token_keys_NT: Tensor, salt: int, width: int) -> Tensor:
    """Return float32 (N, T, W), uniform in [-1, 1) with 24 bits."""
    bits_NTW = uniform_bits(token_keys_NT, salt, width)
    return bits_NTW.bitwise_right_shift_(8).to(torch.float32).mul_(2.0**-23)


def keep_bits(token_keys_NT: Tensor, salt: int, width: int, p: float) -> Tensor:
    """Return int16 (N, T, W): all bits set, or none with probability ``p``.

    The probability is rounded to a multiple of 2^-16, and to 2^-16 at least. Two channels share
    the 32 bits of one draw, which halves the work.
    """
    bits_NTW = uniform_bits(token_keys_NT, salt, -(-width // 2)).view(torch.int16)[..., :width]
    limit = dropped_of_65536(p) - 32768  # kept from here on
    return bits_NTW.clamp_(limit - 1, limit).sub_(limit - 1).neg_()


def zero_dropped(x: Tensor, keep: Tensor) -> Tensor:
    """Return x with zeros where `keep_bits` has none set.

    On the bits of the numbers: a product with a mask of another type is several times slower.
    """
    bits = torch.int16 if x.element_size() == 2 else torch.int32
    return x.view(bits).bitwise_and(keep.to(bits)).view(x.dtype)


def keep_scale(p: float) -> float:
    """Return the factor that keeps the mean under `keep_bits` (inverted dropout)."""
    return 65536 / (65536 - dropped_of_65536(p))


def dropped_of_65536(p: float) -> int:
    """Return how many of 65536 values drop a channel."""
    return max(1, min(round(p * 65536), 65535))


def _mix_(x: Tensor) -> Tensor:
    """Scramble int32 in place (a bijection)."""
    return _fold_(_fold_(x.mul_(signed(MULTIPLIERS[0])), 15).mul_(signed(MULTIPLIERS[1])), 16)


def _fold_(x: Tensor, shift: int) -> Tensor:
    """Compute `x ^= x >>> shift`; torch shifts the sign in, so it is masked away."""
    high = x.bitwise_right_shift(shift).bitwise_and_((1 << (32 - shift)) - 1)
    return x.bitwise_xor_(high)


def signed(value: int) -> int:
    """Return the int32 of the same bits."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value
