"""What the context may ask of a trained layer beside masking: a control, and another scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lope_dist.adapters.context import Answer
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
    layer.lope.context.answer_as("masked_normal")
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
        context.answer_as("masked_normal")
    purified = make_layer().lope.context
    purified.purify()
    with pytest.raises(LopeError, match="'masked_normal'"):
        purified.answer_as("masked_normal")


@pytest.mark.parametrize("experts", ["all", "masked", "masked_normal"])
def test_scale_is_a_factor_on_what_the_adapter_adds(make_layer: MakeLayer, experts: str) -> None:
    layer = make_layer()
    context = layer.lope.context
    context.answer_as(experts)  # type: ignore[arg-type]
    x = torch.randn(2, 7, 12)
    base, whole = layer.base(x), layer(x)
    for scale in (0.5, 2.0):
        with context.answering(replace(context.answer, scale=scale)):
            torch.testing.assert_close(layer(x) - base, scale * (whole - base))
    assert torch.equal(layer(x), whole)
    with context.answering(replace(context.answer, scale=0.0)):
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
        factors = torch.ones(3 + num_poison)
        factors[3:] = factor
        with context.answering(replace(context.answer, poison_scale=factor)):
            torch.testing.assert_close(layer(x), by_hand(layer, x, w * factors))
    with context.answering(replace(context.answer, poison_scale=0.0)):
        without = layer(x)
    for factor in (1.0, 5.0):  # it is for all experts alone
        plain = CompensationConfig(mode="none")
        with context.answering(Answer("masked", plain, poison_scale=factor)):
            torch.testing.assert_close(layer(x), without)
    assert torch.equal(layer(x), whole)
