"""The router's usage over several micro-batches, and what a resume keeps of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.lope import LopeLinear
from lope_dist.adapters.usage import RouterUsage

MakeLayer = Callable[..., LopeLinear]


def collect(layer: LopeLinear, real: torch.Tensor, corrupted: torch.Tensor | None) -> torch.Tensor:
    """Run one micro-batch; return the weights of its tokens."""
    context, x = layer.lope.context, torch.randn(2, 4, 12)
    context.begin_stage(StageDescription(collects_usage=True))
    context.begin_batch(BatchDescription(noise_mask=real, corrupted_mask=corrupted))
    layer(x)
    return (x @ layer.lope.A.t() @ layer.lope.router.t()).softmax(-1)


def test_each_micro_batch_counts_by_its_own_marks(make_layer: MakeLayer) -> None:
    layer = make_layer(num_poison=2)
    usage = RouterUsage(layer)
    weights, marks = [], []
    for seed in range(3):  # of one shape: nothing of the batch before may be used again
        torch.manual_seed(seed)
        real = torch.rand(2, 4) < 0.7
        marks.append((real, real & (torch.rand(2, 4) < 0.5)))
        weights.append(collect(layer, real.long(), marks[-1][1]))
    w = torch.cat([w[real] for w, (real, _) in zip(weights, marks, strict=True)])
    corrupted = torch.cat([w[marked] for w, (_, marked) in zip(weights, marks, strict=True)])
    totals = usage.totals()[""]
    assert totals == pytest.approx([*w.sum(0).tolist(), len(w)], abs=1e-5)
    poison = [float(corrupted[:, -2:].sum()), len(corrupted)]
    assert usage.corrupted_totals()[""] == pytest.approx(poison, abs=1e-5)


def test_a_step_is_taken_back_and_a_resume_goes_on(make_layer: MakeLayer) -> None:
    layer, other = make_layer(), make_layer()
    usage, real = RouterUsage(layer), torch.ones(2, 4)
    collect(layer, real, real.bool())
    before = usage.totals(), usage.corrupted_totals()
    usage.mark()
    for _ in range(2):
        collect(layer, real, real.bool())
        assert usage.totals() != before[0]
        usage.roll_back()
        assert (usage.totals(), usage.corrupted_totals()) == before
    resumed = RouterUsage(other)
    resumed.restore(before[0], True, before[1])
    assert (resumed.totals(), resumed.corrupted_totals()) == before
    assert resumed.poison_means() == usage.poison_means()
    resumed.restore(before[0], False, before[1])
    assert resumed.totals()[""] == [0.0] * 5
    collect(layer, real, None)
    assert usage.totals()[""][-1] == 16.0


def test_layers_without_marks_are_left_out(make_layer: MakeLayer) -> None:
    for layer, corrupted in ((make_layer(), None), (make_layer(num_poison=0), torch.ones(2, 4))):
        collect(layer, torch.ones(2, 4), corrupted)
        assert RouterUsage(layer).corrupted_totals() == {}
        assert RouterUsage(layer).poison_means() is None
