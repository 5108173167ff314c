"""Routed gradients: which expert learns from which token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.lope import LopeLinear
from lope_dist.core.roles import Role

MakeLayer = Callable[..., LopeLinear]
CORRUPTED = torch.rand(2, 9, generator=torch.Generator().manual_seed(4)) < 0.4


def gradients(layer: LopeLinear, x: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Of a loss that is taken of these tokens alone."""
    names = list(layer.roles())
    loss = (layer(x).pow(2).sum(-1) * tokens).sum()
    found = torch.autograd.grad(loss, [layer.get_parameter(name) for name in names])
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("num_poison", [1, 2])
def test_an_expert_learns_from_its_own_tokens_alone(make_layer: MakeLayer, num_poison: int) -> None:
    layer = make_layer(num_poison=num_poison).train()
    x = torch.randn(2, 9, 12)
    own = {
        Role.NORMAL_B: gradients(layer, x, ~CORRUPTED),
        Role.POISON_B: gradients(layer, x, CORRUPTED),
    }
    everything, answer = gradients(layer, x, torch.ones(2, 9)), layer(x)
    layer.lope.context.begin_batch(BatchDescription(corrupted_targets=CORRUPTED))
    routed = gradients(layer, x, torch.ones(2, 9))
    assert torch.equal(layer(x), answer)
    for name, role in layer.roles().items():
        wanted = own.get(role, everything)[name]
        torch.testing.assert_close(routed[name], wanted, msg=name)
        assert wanted.abs().max() > 0


def test_frozen_experts_and_evaluation_need_no_routes(make_layer: MakeLayer) -> None:
    layer = make_layer().train()
    x = torch.randn(2, 9, 12)
    layer.lope.context.begin_batch(BatchDescription(corrupted_targets=CORRUPTED))
    both = gradients(layer, x, torch.ones(2, 9))
    layer.lope.B.normal_1.requires_grad_(False)
    loss = layer(x).pow(2).sum()
    (poison,) = torch.autograd.grad(loss, [layer.lope.B.poison_0])
    torch.testing.assert_close(poison, both["lope.B.poison_0"])
    layer.lope.context.begin_batch(BatchDescription(corrupted_targets=torch.zeros(7)))
    layer.eval()(x)
