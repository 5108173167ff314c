"""What a model's adapters read: nothing of it outlives what it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import AdapterContext, Answer, StageDescription
from lope_dist.adapters.lope import LopeLinear
from lope_dist.adapters.usage import RouterUsage
from lope_dist.config.adapter import CompensationConfig
from lope_dist.core.errors import LopeError

MakeLayer = Callable[..., LopeLinear]


@pytest.fixture
def context() -> AdapterContext:
    return AdapterContext(num_normal=3, num_poison=1, compensation=CompensationConfig())


def test_behind_a_block_the_experts_of_before_answer(context: AdapterContext) -> None:
    usual = context.answer
    scaled = Answer("all", CompensationConfig(mode="none"), scale=0.5, poison_scale=2.0)
    with context.answering(scaled):
        assert context.answer == scaled
        with context.answering("masked"):
            assert context.answer == Answer("masked", usual.compensation)
        assert context.answer == scaled
        with pytest.raises(ZeroDivisionError), context.answering("none"):
            _ = 1 / 0
        with pytest.raises(LopeError, match="is not allowed"), context.answering("mask"):  # type: ignore[arg-type]
            pass
        assert context.answer == scaled
    assert context.answer == usual == Answer("all", CompensationConfig())


def test_a_stage_begins_with_all_experts_whatever_answered_before(context: AdapterContext) -> None:
    context.answer_as("masked")
    context.begin_stage(StageDescription(poison_scale=2.0))
    assert context.answer == Answer("all", CompensationConfig(), poison_scale=2.0)
    with context.answering("all"):  # an evaluation asks what was trained as it is
        assert context.answer.poison_scale == 1.0


@pytest.mark.parametrize(
    "name", ["experts", "token_keys", "embedding_noise", "answer", "stage", "batch"]
)
def test_nothing_can_be_set_by_its_name(context: AdapterContext, name: str) -> None:
    """Neither a field of its own nor one that layers would not read."""
    with pytest.raises(AttributeError):
        setattr(context, name, None)


@pytest.mark.parametrize(
    "description", [BatchDescription(), StageDescription(), Answer("all", CompensationConfig())]
)
def test_descriptions_are_frozen(description: Any) -> None:
    for field in fields(description):
        with pytest.raises(FrozenInstanceError):
            setattr(description, field.name, None)


def test_nothing_of_a_stage_acts_while_the_model_is_asked(make_layer: MakeLayer) -> None:
    layer, x = make_layer(), torch.randn(2, 4, 12)
    context, marks = layer.lope.context, torch.ones(2, 4, dtype=torch.bool)
    expected = layer.eval()(x)
    context.begin_stage(StageDescription(routes_strictly=True, collects_usage=True))
    context.begin_batch(BatchDescription(corrupted_targets=marks, leaves_out_poison=True))
    assert torch.equal(layer(x), expected)
    assert RouterUsage(layer).totals() == {}
    assert not torch.equal(layer.train()(x), expected)
    assert RouterUsage(layer).totals()[""][-1] == 8


def test_a_pass_that_leaves_the_poisoning_experts_out(make_layer: MakeLayer) -> None:
    """They weigh nothing in it, whatever the stage's factor is, and are back in the next one."""
    layer, x = make_layer().train(), torch.randn(2, 4, 12)
    context = layer.lope.context
    context.begin_stage(StageDescription(poison_scale=3.0))
    whole = layer(x)
    context.begin_batch(BatchDescription(leaves_out_poison=True))
    without = layer(x)
    with context.answering(replace(context.answer, poison_scale=0.0)):
        assert torch.equal(layer.eval()(x), without)
    context.begin_batch(BatchDescription())
    assert torch.equal(layer.train()(x), whole)
    assert not torch.equal(whole, without)


def test_a_batch_counts_by_its_own_masks(context: AdapterContext) -> None:
    real, corrupted = torch.tensor([[1, 1, 0]]), torch.tensor([[False, True, False]])
    batch = BatchDescription(noise_mask=real, corrupted_mask=corrupted)
    marks = batch.usage_marks(torch.zeros(3, 2), has_masks=True)
    assert marks.tolist() == [[1, 1, 0], [0, 1, 0]]
    assert batch.usage_marks(torch.zeros(3, 5), has_masks=True) is marks
    assert batch.usage_marks(torch.zeros(3, 2), has_masks=False).tolist() == [[1] * 3, [0] * 3]
    other = replace(batch, noise_mask=torch.ones(1, 3))
    assert other.usage_marks(torch.zeros(3, 2), has_masks=True).tolist()[0] == [1, 1, 1]
