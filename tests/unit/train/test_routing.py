"""Strict routing: the gradients are those of two losses, each of its own tokens and parameters."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support.tiny import small_llama

from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.inject import inject
from lope_dist.adapters.lope import model_roles
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.loss import CrossEntropyConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.core.runlog import read_lines
from lope_dist.corpus.feed.batches import build_batch
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized
from lope_dist.engine.world import World
from lope_dist.train.session import train
from lope_dist.train.stage import loop
from lope_dist.train.stage.robust_loss import StageLoss
from lope_dist.train.stage.routing import Routing, detected_marks, responsibilities
from lope_dist.train.stage.stage_objective import StageObjective
from lope_dist.train.stage.step_plan import StepPlan

ALL = (Role.SHARED_A, Role.NORMAL_B, Role.POISON_B, Role.ROUTER)


def batch_with_marks():
    """Return three rows; marks are of labels, and of prompts."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for number, length in enumerate((9, 14, 11)):
        ids = torch.randint(0, 60, (length,), generator=generator).tolist()
        hit = (torch.rand(length, generator=generator) < 0.4).tolist()
        labels = [IGNORED] * 3 + ids[3:]
        rows.append([Tokenized(number, ids, labels, was_cut=False, corrupted=(hit, hit))])
    return build_batch(rows, is_packed=False, pad_id=0, seed=0, epoch=0)


@pytest.fixture(params=["rank", "input"])
def routed(request):
    """Return a model whose experts have values, its context and its parameters by name."""
    model = small_llama()
    adapter = AdapterConfig(rank=4, dropout=0.1, router=request.param)
    targets = ("q_proj", "v_proj")
    context = inject(model, adapter, targets=targets, stream_of=lambda name: "decoder", seed=0)
    generator = torch.Generator().manual_seed(5)
    roles = {n: r for n, r in model_roles(model).items() if r != Role.BASE}
    for name in roles:
        parameter = model.get_parameter(name)
        parameter.data.normal_(std=0.3, generator=generator)
        parameter.requires_grad_()
    model.train()
    return model, context, roles


class _Engine:
    """Forward and backward; nothing is stepped."""

    gradient_scale = 1.0

    def __init__(self, model) -> None:
        self._model = model

    def forward(self, inputs):
        return self._model(**inputs, use_cache=False)

    def backward(self, loss, is_last) -> None:
        loss.backward()


def gradients_of(
    routed, stage: StageConfig, marked: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return the gradients of a step, with these marks in place of those of noise."""
    model, context, roles = routed
    batch, world = batch_with_marks(), World(0, 1, torch.device("cpu"))
    plan = StepPlan([batch], batch.num_target_tokens, batch.num_target_tokens, 0, 0, None)
    routing = Routing(stage, "poison", 0, None)
    context.begin_stage(StageDescription(routes_strictly=stage.strict_routing))
    model.zero_grad()
    if marked is None:
        (marked,) = routing.marks(None, [batch], step=0)
    objective = StageObjective(True, None, StageLoss(CrossEntropyConfig(), shift=True), routing)
    session = SimpleNamespace(context=context, world=world)
    parts = SimpleNamespace(engine=_Engine(model), objective=objective)
    assert marked is not None
    for one in routing.passes(batch, marked, step=0):
        loop._micro_step(session, parts, batch, plan, True, one, None)
    return {name: model.get_parameter(name).grad.clone() for name in roles}


def expected_of(routed, *, without_poison: bool) -> dict[str, torch.Tensor]:
    """Return plain autograd's gradients: of clean targets, and of marked ones."""
    model, context, roles = routed
    batch = batch_with_marks()
    context.begin_batch(batch.description())
    assert batch.corrupted_mask is not None
    found = {}
    for is_marked in (False, True):
        factor = 0.0 if without_poison and not is_marked else 1.0
        context.begin_stage(StageDescription(poison_scale=factor))
        labels = batch.labels.masked_fill(batch.corrupted_mask != is_marked, IGNORED)
        logits = model(**batch.inputs, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        names = [n for n, role in roles.items() if (role == Role.POISON_B) == is_marked]
        own = [model.get_parameter(n) for n in names]
        grads = torch.autograd.grad(loss / batch.num_target_tokens, own)
        found |= dict(zip(names, grads, strict=True))
    return found


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_each_kind_of_expert_gets_the_gradient_of_its_own_loss(routed, dropout: float) -> None:
    stage = StageConfig(
        trainable=ALL, gradient_routing=True, strict_routing=True, poison_dropout=dropout
    )
    found = gradients_of(routed, stage)
    expected = expected_of(routed, without_poison=dropout == 1.0)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_soft_routing_weighs_each_target_in_both_passes(routed) -> None:
    model, context, roles = routed
    batch = batch_with_marks()
    share_NT = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(2))
    stage = StageConfig(
        trainable=ALL, gradient_routing=True, strict_routing=True, poison_dropout=1.0
    )
    found = gradients_of(routed, stage, share_NT)
    context.begin_batch(batch.description())
    for is_noise in (False, True):
        context.begin_stage(StageDescription(poison_scale=float(is_noise)))
        weights_NT = share_NT if is_noise else 1 - share_NT
        logits = model(**batch.inputs, use_cache=False).logits[:, :-1]
        labels_Q = batch.labels[:, 1:].flatten()
        losses_Q = F.cross_entropy(logits.flatten(0, 1), labels_Q, reduction="none")
        loss = (losses_Q * weights_NT[:, :-1].flatten()).sum() / batch.num_target_tokens
        names = [n for n, role in roles.items() if (role == Role.POISON_B) == is_noise]
        own = [model.get_parameter(n) for n in names]
        for name, gradient in zip(names, torch.autograd.grad(loss, own), strict=True):
            assert gradient.abs().max() > 0
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_how_likely_a_target_is_noise_is_bayes_rule() -> None:
    batch = batch_with_marks()
    masked = torch.full((batch.num_target_tokens,), 2.0)
    unmasked = masked.clone()
    unmasked[0] = 1.0
    share = responsibilities(batch, masked, unmasked, 0.2)
    assert ((share > 0) == (F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED) != IGNORED)).all()
    noise, clean = 0.2 * math.exp(-1.0), 0.8 * math.exp(-2.0)
    torch.testing.assert_close(share[0, 2], torch.tensor(noise / (noise + clean)))
    torch.testing.assert_close(share[1, 2], torch.tensor(0.2))


def test_plain_routing_is_not_that(routed) -> None:
    """One pass leaves what comes through attention with the token that it comes to."""
    found = gradients_of(routed, StageConfig(trainable=ALL, gradient_routing=True))
    expected = expected_of(routed, without_poison=False)
    name = next(name for name, role in routed[2].items() if role == Role.POISON_B)
    assert not torch.allclose(found[name], expected[name], rtol=1e-3)


def test_detected_are_the_hardest_targets_of_each_example() -> None:
    batch = dataclasses.replace(batch_with_marks(), corrupted_mask=None)
    losses = torch.arange(float(batch.num_target_tokens))
    marked = detected_marks(batch, losses, 0.3)
    assert marked.sum(1).tolist() == [1, 3, 2]  # of 6, 11 and 8 targets
    assert marked[0].nonzero().flatten().tolist() == [7], "position 7 predicts the last of nine"


def test_the_pass_without_the_poisoning_expert_comes_in_its_share_of_the_steps() -> None:
    stage = StageConfig(
        trainable=ALL, gradient_routing=True, strict_routing=True, poison_dropout=0.3
    )
    batch, routing = batch_with_marks(), Routing(stage, "poison", 7, None)
    (marked,) = routing.marks(None, [batch], step=0)
    left_out = [routing.passes(batch, marked, s)[0].leaves_out_poison for s in range(1000)]
    assert 250 < sum(left_out) < 350
    assert not any(routing.passes(batch, marked, s)[1].leaves_out_poison for s in range(20))


# In runs

STRICT = {
    "train__stages__poison__trainable": list(map(str, ALL)),
    "train__stages__poison__gradient_routing": "detected",
    "train__stages__poison__strict_routing": True,
    "train__stages__poison__soft_routing": True,
    "train__stages__poison__poison_dropout": 0.5,
    "train__stages__poison__noise": "none",
    "train__stages__finetune__max_steps": 1,
    "data__max_examples": 40,
    "adapter__dropout": 0.0,
}


def test_strict_routing_depends_on_no_split_and_learns_all(config_in, tmp_path: Path) -> None:
    """With no noise injected at all: first what is detected is marked, then it is weighed."""
    run = train(config_in(tmp_path / "run", **STRICT))
    other = {"train__micro_batch": 8, "model__gradient_checkpointing": True, "data__packing": False}
    split = train(config_in(tmp_path / "split", **STRICT, **other))
    for ours, theirs in zip(*(read_lines(r / "metrics.jsonl") for r in (run, split)), strict=True):
        for key in ("loss", "grad_norm", "target_tokens"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3)
    for name, value in load_file(run / "checkpoints/1-poison/adapter.safetensors").items():
        assert value.abs().max() > 0, name


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"detected_share": 0.1}, "detected_share = 0.1 has an effect with gradient_routing"),
        ({"strict_routing": True}, "strict_routing = True is about routed gradients"),
        ({"poison_dropout": 0.5}, "poison_dropout = 0.5 is about the passes of strict routing"),
        (
            {"gradient_routing": True, "strict_routing": True, "soft_routing": True},
            "soft_routing = True is about the passes of detected marks",
        ),
        (
            {"gradient_routing": True, "strict_routing": True, "loss": {"kind": "truncated"}},
            "takes the loss in two passes, and loss.kind = truncated asks",
        ),
        ({"gradient_routing": "found"}, "gradient_routing"),
    ],
)
def test_an_option_without_what_it_needs_is_refused(tiny_config, changes, problem) -> None:
    stage = {"train__stages__poison__trainable": list(map(str, ALL))}
    stage |= {f"train__stages__poison__{key}": value for key, value in changes.items()}
    with pytest.raises(LopeError) as refused:
        tiny_config(**stage)
    assert problem in str(refused.value)
