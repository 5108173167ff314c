from __future__ import annotations

import numpy as np
import pytest
import torch

from lope_dist.adapters.counter_noise import (
    keep_bits,
    keep_scale,
    salt_of,
    uniform,
    uniform_bits,
    zero_dropped,
)
from lope_dist.core.seeds import token_keys

KEYS = torch.from_numpy(token_keys(1, "tokens", 0, 0, 512))[None]


def reference_bits(keys: np.ndarray, salt: int, width: int) -> np.ndarray:
    """The documented hash in plain Python integers."""

    def fold(x: int, shift: int) -> int:
        return x ^ (x >> shift)

    def mix(x: int) -> int:
        x = fold(x * 0x7FEB352D & 0xFFFFFFFF, 15)
        return fold(x * 0x846CA68B & 0xFFFFFFFF, 16)

    channel = [mix(fold((c + 1) * 0x9E3779B9 & 0xFFFFFFFF, 16)) for c in range(width)]
    key = [mix(fold((int(k) & 0xFFFFFFFF) ^ salt, 16)) for k in keys]
    return np.array([[mix(k + c & 0xFFFFFFFF) for c in channel] for k in key], dtype=np.uint32)


def test_bits_are_those_of_unsigned_arithmetic() -> None:
    bits = uniform_bits(KEYS[:, :9], 0xDEADBEEF, 5)[0].numpy().view(np.uint32)
    assert (bits == reference_bits(KEYS[0, :9].numpy(), 0xDEADBEEF, 5)).all()


def test_bits_of_a_token_depend_on_nothing_around_it() -> None:
    both = torch.cat([KEYS, KEYS.flip(1)])
    bits = uniform_bits(both, 5, 32)
    assert torch.equal(bits[:1, :100], uniform_bits(KEYS[:, :100], 5, 32))
    assert torch.equal(bits[1].flip(0), bits[0])
    assert torch.equal(bits[..., :7], uniform_bits(both, 5, 7))
    assert torch.equal(bits.view(-1, 32), uniform_bits(both.view(-1), 5, 32))


def test_a_batch_keeps_its_keys() -> None:
    before = KEYS.clone()
    uniform(KEYS, 5, 8)
    assert torch.equal(KEYS, before)


def test_uniform_has_the_moments_of_a_uniform() -> None:
    u = uniform(KEYS, 11, 256).double()
    n = u.numel()
    assert u.min() >= -1.0
    assert u.max() < 1.0
    assert abs(u.mean()) < 4 * (1 / 3 / n) ** 0.5
    assert u.pow(2).mean().item() == pytest.approx(1 / 3, abs=4 * (4 / 45 / n) ** 0.5)
    counts = torch.histc(u, bins=64, min=-1, max=1)
    chi2 = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert 25 < chi2 < 120  # 63 degrees of freedom


@pytest.mark.parametrize("other", ["next token", "next channel", "next salt", "far token"])
def test_neighbours_are_uncorrelated(other: str) -> None:
    u = uniform(KEYS, 11, 256)[0].double()
    a, b = {
        "next token": (u[1:], u[:-1]),
        "far token": (u[128:], u[:-128]),
        "next channel": (u[:, 1:], u[:, :-1]),
        "next salt": (u, uniform(KEYS, 12, 256)[0].double()),
    }[other]
    for power in (1, 2):
        x, y = a.pow(power).flatten(), b.pow(power).flatten()
        r = torch.corrcoef(torch.stack([x, y]))[0, 1].item()
        assert abs(r) < 4.5 / x.numel() ** 0.5, f"power {power}"


def test_every_bit_is_fair_and_rows_are_distinct() -> None:
    bits = uniform_bits(KEYS, 11, 256)[0]
    for bit in range(32):
        share = (bits >> bit & 1).double().mean().item()
        assert share == pytest.approx(0.5, abs=4.5 * 0.5 / bits.numel() ** 0.5), bit
    assert len(bits.unique(dim=0)) == 512


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_keep_rate_and_scale(p: float) -> None:
    bits = keep_bits(KEYS, 3, 1023, p)  # an odd width: two channels share a draw
    assert sorted(bits.unique().tolist()) == [-1, 0]
    keep = bits != 0
    n = keep.numel()
    assert keep.shape == (1, 512, 1023)
    assert keep.double().mean().item() == pytest.approx(1 - p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert keep_scale(p) * (1 - p) == pytest.approx(1.0, abs=1e-4)
    halves = torch.stack([keep[..., :1022:2].flatten(), keep[..., 1:1023:2].flatten()]).double()
    assert abs(torch.corrcoef(halves)[0, 1]) < 4.5 / halves.shape[1] ** 0.5


def test_a_rate_above_0_drops_and_one_below_1_keeps() -> None:
    keys = KEYS.repeat(1, 8)
    for p in (1e-9, 1 - 1e-9):
        kept = (keep_bits(keys, 3, 2048, p) != 0).double().mean().item()
        assert 0 < kept < 1
        assert kept == pytest.approx(1 - round(p), abs=3e-5)
    assert keep_scale(1e-9) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_dropped_is_zero_and_the_rest_as_it_was(dtype: torch.dtype) -> None:
    x = torch.randn(1, 512, 33).to(dtype)
    keep = keep_bits(KEYS, 3, 33, 0.3)
    assert torch.equal(zero_dropped(x, keep), torch.where(keep != 0, x, 0))
    assert torch.equal(zero_dropped(x.mT, keep.mT), torch.where(keep != 0, x, 0).mT)


def test_salts_differ_by_name_and_seed() -> None:
    assert len({salt_of(0, "a"), salt_of(0, "b"), salt_of(1, "a")}) == 3
    assert not torch.equal(keep_bits(KEYS, salt_of(0, "a"), 64, 0.5), keep_bits(KEYS, 1, 64, 0.5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_the_same_bits() -> None:
    assert torch.equal(uniform_bits(KEYS.cuda(), 7, 129).cpu(), uniform_bits(KEYS, 7, 129))
    assert torch.equal(keep_bits(KEYS.cuda(), 7, 129, 0.05).cpu(), keep_bits(KEYS, 7, 129, 0.05))
    assert torch.equal(uniform(KEYS.cuda(), 7, 129).cpu(), uniform(KEYS, 7, 129))
