"""A training step computes nothing on the host by mistake: `meta` stands in for a GPU.

The meta device alone forgives an index or a mask on the host; the mode below does not. And it
counts what a GPU would have to be waited for: values that are read on the host.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.one_device import META, OneDevice, loaded_on_meta

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import Answer, StageDescription
from lope_dist.adapters.kernels import launching
from lope_dist.config.adapter import CompensationConfig
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.model.loss_head import loss_head
from lope_dist.train.objective import summed_loss, targets_of

ROWS, LENGTH = 3, 16


def inputs() -> dict[str, torch.Tensor]:
    """With a ready mask, as transformers would make one of values that it reads."""
    ids = torch.ones(ROWS, LENGTH, dtype=torch.int64, device=META)
    mask = torch.zeros(ROWS, 1, LENGTH, LENGTH, dtype=torch.bfloat16, device=META)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(params=[False, True], ids=["PyTorch form", "kernels"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' path without the kernels: their tensors must be on the device too."""
    if request.param:
        pytest.importorskip("triton", reason="triton is an extra of development")
        monkeypatch.setattr(launching, "run_on", lambda x, rank: True)

        def launch(kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
            devices = {a.device for a in arguments if isinstance(a, torch.Tensor)}
            assert devices == {META}, devices

        monkeypatch.setattr(launching, "launch", launch)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("router", ["rank", "input"])
def test_a_training_step_stays_on_its_device_and_waits_for_nothing(
    router: str, routed: bool
) -> None:
    """With dropout, embedding noise and usage; and with routed gradients."""
    model = loaded_on_meta(router=router).train()
    context = model.lope_context
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int32, device=META)
    marks = mask.bool()
    context.begin_batch(BatchDescription({"decoder": mask}, mask, marks, marks if routed else None))
    context.begin_stage(StageDescription(EmbeddingNoiseConfig(), collects_usage=True))
    targets = targets_of(torch.ones(ROWS, LENGTH, dtype=torch.int64), shift=True)
    call = inputs()
    with OneDevice() as mode:
        summed_loss(
            lambda: model(**call, use_cache=False), loss_head(model), targets, META
        ).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert [n for n, grad in trained.items() if grad is None or not grad.is_meta] == []
    assert mode.reads.total() == 0, mode.reads


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("mode", ["conserve", "unit", "renormalize", "none"])
@pytest.mark.parametrize("num_poison", [1, 2])
def test_masked_answers_stay_on_their_device(mode: str, num_poison: int) -> None:
    model = loaded_on_meta(num_poison=num_poison).eval()
    model.lope_context.answer_as(Answer("masked", CompensationConfig(mode=mode)))  # type: ignore[arg-type]
    with torch.no_grad(), OneDevice() as seen:
        assert model(**inputs(), use_cache=False).logits.is_meta
    assert seen.reads.total() == 0, seen.reads
