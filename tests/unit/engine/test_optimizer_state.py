"""AdamW's state by name: what a local engine gives and takes."""

import pytest
import torch
from torch import nn

from lope_dist.config.train import OptimizerConfig
from lope_dist.core.errors import LopeError
from lope_dist.engine.local import LocalEngine
from lope_dist.engine.zero_state import _part


class Model(nn.Module):
    """Two parameters, of which one may be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        self.b = nn.Parameter(torch.ones(3))

    def forward(self, x, use_cache=False):  # noqa: D102
        return (x @ self.a.T).sum() * self.b.sum()


def engine_on(model: Model) -> LocalEngine:
    groups = [
        {"name": "shared_a", "params": [model.a], "lr": 0.1, "weight_decay": 0.1},
        {"name": "router", "params": [model.b], "lr": 0.01, "weight_decay": 0.0},
    ]
    return LocalEngine(model, groups, OptimizerConfig())


def step(engine: LocalEngine, seed: int) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    engine.backward(engine.forward({"x": x}), True)
    engine.step(1.0)


def test_a_fresh_engine_with_the_state_goes_on_bit_equal() -> None:
    whole, first = Model(), Model()
    whole_engine, first_engine = engine_on(whole), engine_on(first)
    for seed in range(3):
        step(whole_engine, seed)
        step(first_engine, seed)
    state = first_engine.optimizer_state()
    assert set(state) == {f"{n}.{k}" for n in "ab" for k in ("exp_avg", "exp_avg_sq", "step")}
    assert float(state["a.step"]) == 3
    second = Model()
    second.load_state_dict(first.state_dict())
    second_engine = engine_on(second)
    second_engine.load_optimizer_state(state)
    for seed in range(3, 6):
        step(whole_engine, seed)
        step(second_engine, seed)
    for name, value in whole.named_parameters():
        assert torch.equal(value, second.get_parameter(name))
    # what was given away is a copy
    assert float(state["a.step"]) == 3


def test_before_the_first_step_it_is_zero_and_can_be_loaded() -> None:
    model, other = Model(), Model()
    engine, fresh = engine_on(model), engine_on(other)
    state = engine.optimizer_state()
    assert not any(value.any() for value in state.values())
    engine.load_optimizer_state(state)
    for each in (engine, fresh):
        step(each, 0)
    assert torch.equal(model.a, other.a)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("b.exp_avg_sq"), r"'b.exp_avg_sq' .*\[3\]"),
        (lambda s: s.update({"c.step": torch.zeros(())}), r"'c.step' .*\[\]"),
        (lambda s: s.update({"a.exp_avg": torch.zeros(3, 2)}), r"\[3, 2\] .*\[2, 3\]"),
    ],
)
def test_state_of_other_parameters_is_refused(change, told: str) -> None:
    engine = engine_on(Model())
    state = engine.optimizer_state()
    change(state)
    with pytest.raises(LopeError, match=told):
        engine.load_optimizer_state(state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_steps_nothing_and_leaves_nothing(bad: float) -> None:
    model = Model()
    engine = engine_on(model)
    step(engine, 0)
    weights, state = model.a.detach().clone(), engine.optimizer_state()
    engine.backward(engine.forward({"x": torch.ones(2, 3)}) * bad, True)
    assert not torch.isfinite(torch.tensor(engine.step(1.0)))
    assert torch.equal(model.a, weights)
    after = engine.optimizer_state()
    assert all(torch.equal(after[name], state[name]) for name in state)
    other = Model()
    other_engine = engine_on(other)
    for each in (engine, other_engine):
        if each is other_engine:
            step(each, 0)
        step(each, 1)
    assert torch.equal(model.a, other.a)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_the_parts_of_a_parameter_make_it_up(size: int) -> None:
    whole = torch.arange(1.0, 11.0).view(2, 5)
    parts = torch.cat([_part(whole, rank, size) for rank in range(size)])
    assert torch.equal(parts[:10], whole.flatten())
    assert not parts[10:].any()
