"""The experts' product is added in the base output's own memory, where that is nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lope_dist.adapters.gemms import add_experts


@pytest.fixture
def parts() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Base output (2, 3, 5), z (6, 4) and two experts (5, 2), in float64."""
    y, z = torch.randn(2, 3, 5).double(), torch.randn(6, 4).double()
    return y, z, [torch.randn(5, 2).double() for _ in range(2)]


def plain(y: Tensor, z: Tensor, experts: list[Tensor], scale: float) -> Tensor:
    return y + scale * (z @ torch.cat(experts, dim=1).t()).view_as(y)


def test_the_base_output_becomes_the_result(parts) -> None:
    y, z, experts = parts
    wanted = plain(y, z, experts, 0.5)
    result = add_experts(y, z, experts, 0.5)
    assert torch.allclose(result, wanted)
    assert result.data_ptr() == y.data_ptr()


@pytest.mark.parametrize(
    "held",
    [
        lambda y: y.view(2, 3, 5),
        lambda y: y.transpose(0, 1).contiguous().transpose(0, 1),
        lambda y: y.clone().requires_grad_(),
    ],
    ids=["a view", "not contiguous", "a leaf"],
)
def test_an_output_that_others_hold_is_left_alone(parts, held: Callable) -> None:
    y, z, experts = parts
    y = held(y)
    before = y.detach().clone()
    result = add_experts(y, z, experts, 0.5)
    assert torch.allclose(result, plain(before, z, experts, 0.5))
    assert torch.equal(y, before)


def test_the_gradients_are_those_of_the_plain_sum(parts) -> None:
    _, z, experts = parts
    x, weight = torch.randn(2, 3, 7).double(), torch.randn(5, 7).double()
    inputs = [t.requires_grad_() for t in (x, z, *experts)]

    def layer(x: Tensor, z: Tensor, *experts: Tensor) -> Tensor:
        return add_experts(F.linear(x, weight), z, list(experts), 0.5)

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.allclose(layer(*inputs), plain(F.linear(x, weight), z, experts, 0.5))
