import math

import pytest
import torch

from lope_dist.config.train import OptimizerConfig, StageConfig
from lope_dist.core.roles import Role
from lope_dist.engine.groups import build_groups
from lope_dist.engine.local import LocalEngine

STAGE = StageConfig.model_validate(
    {
        "trainable": ["shared_a", "router"],
        "lr": 0.1,
        "groups": {"router": {"lr": 0.01}},
    }
)


@pytest.fixture
def make(toy, roles):
    def make(**settings):
        module = toy(*STAGE.trainable)
        groups = build_groups(module, roles, STAGE)
        return module, LocalEngine(module, groups, OptimizerConfig(**settings))

    return make


def backward(engine: LocalEngine, *xs: float) -> None:
    for i, x in enumerate(xs):
        loss = engine.forward({"x": torch.tensor([x])}).sum()
        engine.backward(loss, is_last=i == len(xs) - 1)


def test_step_moves_each_group_by_its_own_lr_and_nothing_else(make) -> None:
    module, engine = make()
    backward(engine, 1.0, 2.0)
    engine.step(0.5)
    # The first step of Adam moves a parameter by its lr, whatever the gradient.
    moved = {name: p.item() for name, p in module.named_parameters()}
    assert moved == {
        "base": 0.0,
        "a": pytest.approx(-0.05, rel=1e-5),
        "n_0": 0.0,
        "n_1": 0.0,
        "p": 0.0,
        "r": pytest.approx(-0.005, rel=1e-5),
    }


def test_norm_is_of_the_sum_of_micro_batches_and_gradients_are_cleared(make) -> None:
    _, engine = make()
    backward(engine, 1.0, 2.0)
    assert engine.step(1.0) == pytest.approx(3 * math.sqrt(2))
    backward(engine, 1.0)
    assert engine.step(1.0) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, 1.0), (0.0, 3 * math.sqrt(2))])
def test_clipping_is_global_and_zero_means_none(make, max_norm: float, expected: float) -> None:
    module, engine = make(max_grad_norm=max_norm)
    seen = []
    original = engine._optimizer.step

    def spy():
        seen.extend(p.grad.item() for p in module.parameters() if p.grad is not None)
        original()

    engine._optimizer.step = spy
    backward(engine, 3.0)
    assert engine.step(1.0) == pytest.approx(3 * math.sqrt(2))  # before clipping
    assert seen == pytest.approx([expected / math.sqrt(2)] * 2)


def test_gather_returns_copies_of_what_was_asked(make) -> None:
    module, engine = make()
    gathered = engine.gather(["a", "p"])
    assert set(gathered) == {"a", "p"}
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in gathered.values())
    backward(engine, 1.0)
    engine.step(1.0)
    assert gathered["a"].item() == 0.0 != module.a.item()


def test_groups_in_use_are_those_of_the_optimizer(make) -> None:
    _, engine = make()
    assert [(g.role, g.lr) for g in engine.groups_in_use()] == [
        (Role.SHARED_A, 0.1),
        (Role.ROUTER, 0.01),
    ]
    backward(engine, 1.0)
    engine.step(0.5)
    assert [g.lr for g in engine.groups_in_use()] == [0.05, 0.005]


def test_a_closed_engine_leaves_a_model_for_the_next_one(make) -> None:
    module, engine = make()
    backward(engine, 1.0)
    engine.step(1.0)
    engine.close()
    assert all(p.grad is None for p in module.parameters())
    assert not hasattr(engine, "_optimizer")
