"""Each Triton kernel, run by Triton's interpreter, is its PyTorch form."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is an extra of development")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off", allow_module_level=True)

from support.interpreter import multiply_bfloat16
from support.quick import quick

from lope_dist.adapters import gemms
from lope_dist.adapters.compensation import (
    compensated_weights,
    cosines,
    grams,
    uses_cosine,
)
from lope_dist.adapters.counter_noise import keep_bits
from lope_dist.adapters.kernels import masked, projection, routing
from lope_dist.config.adapter import CompensationConfig

TYPES = (torch.float32, torch.bfloat16, torch.float16)
# (P, D, R): blocks that are filled, and that are not, in each dimension
SHAPES = ((64, 128, 4), (1, 16, 1), (37, 71, 5), (513, 130, 16), (70, 96, 33))
SLACK = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply_bfloat16(monkeypatch)
    torch.manual_seed(0)


def keys_of(P: int) -> Tensor:
    """Any keys, the extreme ones among them."""
    keys = torch.randint(-(2**31), 2**31 - 1, (P,), dtype=torch.int32)
    keys[0], keys[-1] = -(2**31), 2**31 - 1
    return keys


def assert_near(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().float(), theirs.detach().float()
    largest = max(float(theirs.abs().max()), 0.05)  # terms of about 1 may cancel
    assert float((ours - theirs).abs().max()) <= SLACK[dtype] * largest


@pytest.mark.parametrize(
    ("salt", "p"),
    quick(
        product([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], [0.05, 0.5, 0.999]),
        (0x80000000, 0.5),
    ),
)
def test_the_masks_are_bit_equal(salt: int, p: float) -> None:
    """A projection with the identity shows the mask, forward and backward."""
    for P, D in ((33, 64), (5, 47)):
        keys, x, A = keys_of(P), torch.ones(P, D), torch.eye(D)
        kept = keep_bits(keys, salt, D, p) != 0
        assert torch.equal(projection.project(x, A, keys, salt, p) != 0, kept)
        grad_x, grad_A = projection.project_backward(
            torch.ones(P, D), x, A, keys, salt, p, needs_x=True, needs_A=True
        )
        assert grad_x is not None
        assert grad_A is not None
        assert torch.equal(grad_x != 0, kept)
        assert torch.equal(grad_A != 0, kept.any(0).expand(D, -1))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    quick(
        product(SHAPES, TYPES),
        *product([SHAPES[2]], TYPES),
    ),
    ids=str,
)
def test_dropout_with_the_projection(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    P, D, R = shape
    x, A, keys = torch.randn(P, D).to(dtype), torch.randn(R, D) * 0.1, keys_of(P)
    leaves = [x.clone().requires_grad_(), A.clone().requires_grad_()]
    expected = gemms.project(*leaves, keys, 0xF2340001, 0.3)
    assert_near(projection.project(x, A, keys, 0xF2340001, 0.3), expected, dtype)
    grad = torch.randn(P, R).to(dtype)
    wanted = torch.autograd.grad(expected, leaves, grad)
    for needs_x, needs_A in ((True, True), (True, False), (False, True)):
        found = projection.project_backward(
            grad, x, A, keys, 0xF2340001, 0.3, needs_x=needs_x, needs_A=needs_A
        )
        for ours, theirs, needed in zip(found, wanted, (needs_x, needs_A), strict=True):
            assert (ours is not None) == needed
            if ours is not None:
                assert_near(ours, theirs, dtype)


def routed(h: Tensor, router: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The PyTorch form of `routing.route`."""
    w = torch.nn.functional.linear(h.float(), router).softmax(-1, dtype=torch.float32)
    return w, (w.unsqueeze(-1) * h.float().unsqueeze(-2)).flatten(-2).to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("E", quick([2, 4, 5], 5))
@pytest.mark.parametrize("shape", [(64, 4), (1, 1), (77, 5), (130, 16)], ids=str)
def test_routing(shape: tuple[int, int], E: int, dtype: torch.dtype) -> None:
    P, R = shape
    h, router = (torch.randn(P, R) * 3).to(dtype), torch.randn(E, R)
    sides: list[Any] = []
    for form in (routing.route, routed):
        leaves = [h.clone().requires_grad_(), router.clone().requires_grad_()]
        w, z = form(*leaves, dtype)
        grad = torch.randn(P, E * R, generator=torch.Generator().manual_seed(1)).to(dtype)
        sides.append((w, z, *torch.autograd.grad(z, leaves, grad)))
    (w, z, grad_h, grad_router), (their_w, their_z, their_grad_h, their_grad_router) = sides
    assert torch.equal(w[:, -1], torch.ones(P))
    assert not w.requires_grad
    torch.testing.assert_close(w[:, :-1], their_w.detach(), atol=1e-6, rtol=1e-5)
    assert_near(z, their_z, dtype)
    assert_near(grad_h, their_grad_h, dtype)
    assert_near(grad_router, their_grad_router, torch.float32)


@pytest.mark.parametrize("are_kept", [False, True], ids=["product", "purified"])
@pytest.mark.parametrize("mode", ["conserve", "unit", "constant", "renormalize", "none"])
@pytest.mark.parametrize(("K", "M"), quick([(3, 1), (2, 3), (1, 1), (4, 2)], (2, 3)))
def test_masked_routing(K: int, M: int, mode: str, are_kept: bool) -> None:
    for R, P, top_k in ((4, 21, None), (5, 16, 1), (20, 3, 0)):
        if mode == "none" and top_k is not None:
            continue  # refused: it would have no effect
        compensation = CompensationConfig.model_validate(
            {"mode": mode, "top_k": top_k, "beta": 1.7 if mode == "constant" else None}
        )
        normal, poison = ([torch.randn(11, R) for _ in range(n)] for n in (K, M))
        h, router, theta = torch.randn(P, R), torch.randn(K + M, R), None
        h[0] = 0  # no output at all
        w = torch.nn.functional.linear(h, router).softmax(-1)
        if uses_cosine(compensation):
            theta = cosines(h, w[:, K:], grams(normal, poison))
        new = compensated_weights(w[:, :K], w[:, K:], theta, compensation)
        expected = (new.unsqueeze(-1) * h.unsqueeze(-2)).flatten(-2)
        given = None
        if theta is not None:
            stacked = torch.cat([*normal, *poison], dim=1)
            given = grams(normal, poison) if are_kept else stacked.t() @ stacked
        z = masked.route_masked(h, router, K, given, are_kept, compensation, torch.float32)
        torch.testing.assert_close(z, expected, atol=2e-5, rtol=1e-4)
