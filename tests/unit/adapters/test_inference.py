"""What the context may ask of a trained layer beside masking: a control, and another scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lope_dist.adapters.lope import LopeLinear
from lope_dist.config.adapter import CompensationConfig
from lope_dist.core.errors import LopeError

MakeLayer = Callable[..., LopeLinear]


def by_hand(layer: LopeLinear, x: Tensor, weights: Tensor) -> Tensor:
    """`W0 x + s * sum_i w_i B_i A x`, expert by expert."""
    lope, bank = layer.lope, layer.lope.B
    y = layer.base(x)
    for i, name in enumerate((*bank.normal_names, *bank.poison_names)):
        B = getattr(bank, name)
        y = y + lope.config.scaling * weights[..., i : i + 1] * (x @ lope.A.t() @ B.t())
    return y


@pytest.mark.parametrize("num_poison", [0, 1])
def test_the_control_leaves_the_first_normal_expert_out(
    make_layer: MakeLayer, num_poison: int
) -> None:
    layer = make_layer(num_poison=num_poison)
    layer.lope.context.experts = "masked_normal"
    x = torch.randn(2, 7, 12)
    w = (x @ layer.lope.A.t() @ layer.lope.router.t()).softmax(-1)
    kept = torch.ones(3 + num_poison)
    kept[0] = 0
    without = layer(x)
    torch.testing.assert_close(without, by_hand(layer, x, w * kept))
    with torch.no_grad():
        layer.lope.B.normal_0.fill_(float("nan"))
    assert torch.equal(layer(x), without)


def test_the_control_needs_a_second_normal_expert(make_layer: MakeLayer) -> None:
    context = make_layer(num_normal=1).lope.context
    with pytest.raises(LopeError, match=r"'masked_normal'.*adapter\.num_normal is 1.*'all'"):
        context.experts = "masked_normal"
    purified = make_layer().lope.context
    purified.is_purified = True
    with pytest.raises(LopeError, match="'masked_normal'"):
        purified.experts = "masked_normal"


@pytest.mark.parametrize("experts", ["all", "masked", "masked_normal"])
def test_scale_is_a_factor_on_what_the_adapter_adds(make_layer: MakeLayer, experts: str) -> None:
    layer = make_layer()
    layer.lope.context.experts = experts  # type: ignore[assignment]
    x = torch.randn(2, 7, 12)
    base, whole = layer.base(x), layer(x)
    for scale in (0.5, 2.0):
        layer.lope.context.scale = scale
        torch.testing.assert_close(layer(x) - base, scale * (whole - base))
    layer.lope.context.scale = 1.0
    assert torch.equal(layer(x), whole)
    layer.lope.context.scale = 0.0
    assert torch.equal(layer(x), base)


@pytest.mark.parametrize("num_poison", [1, 2])
def test_the_poisoning_experts_weight_is_a_line_through_masked_and_unmasked(
    make_layer: MakeLayer, num_poison: int
) -> None:
    layer = make_layer(num_poison=num_poison)
    context = layer.lope.context
    x = torch.randn(2, 7, 12)
    w = (x @ layer.lope.A.t() @ layer.lope.router.t()).softmax(-1)
    whole = layer(x)
    for factor in (-0.5, 0.0, 2.0):
        context.poison_scale = factor
        factors = torch.ones(3 + num_poison)
        factors[3:] = factor
        torch.testing.assert_close(layer(x), by_hand(layer, x, w * factors))
    context.poison_scale = 0.0
    without = layer(x)
    context.experts, context.compensation = "masked", CompensationConfig(mode="none")
    torch.testing.assert_close(layer(x), without)
    context.poison_scale = 5.0  # for all experts alone
    torch.testing.assert_close(layer(x), without)
    context.experts, context.poison_scale = "all", 1.0
    assert torch.equal(layer(x), whole)
