"""The layer as it computes on a GPU, its kernels in the interpreter, against the PyTorch form."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton is an extra of development")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off", allow_module_level=True)

from support.interpreter import run_on_the_cpu

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import Answer, StageDescription
from lope_dist.adapters.kernels import launching
from lope_dist.adapters.lope import LopeLinear
from lope_dist.adapters.purify import purify
from lope_dist.adapters.usage import RouterUsage
from lope_dist.config.adapter import CompensationConfig

MakeLayer = Callable[..., LopeLinear]
CORRUPTED = torch.rand(2, 9, generator=torch.Generator().manual_seed(4)) < 0.4
REAL = torch.ones(2, 9)
REAL[1, 5:] = 0


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were launched."""
    names: list[str] = []

    def launch(kernel, grid, *arguments, **constants) -> None:
        names.append(f"{kernel.fn.__module__.rpartition('.')[2]}{kernel.fn.__name__}")
        run(kernel, grid, *arguments, **constants)

    run = launching.launch
    monkeypatch.setattr(launching, "launch", launch)
    return names


def results(layer: LopeLinear, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients."""
    x = x.clone().requires_grad_()
    layer.zero_grad(set_to_none=True)
    y = layer(x)
    y.pow(2).sum().backward()
    found = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **found}  # type: ignore[dict-item]


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4, msg=name)


SETTINGS = {
    "as always": {},
    "no dropout": {"dropout": 0.0},
    "two poisoning experts": {"num_poison": 2},
    "one expert": {"num_normal": 1, "num_poison": 0},
    "router of the input": {"router": "input"},
}


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("special", ["", "routed", "frozen", "poison scale"])
def test_training(
    make_layer: MakeLayer, keys_of, monkeypatch, launched: list[str], name: str, special: str
) -> None:
    layer = make_layer(**{"dropout": 0.3, **SETTINGS[name]}).train()
    context, x = layer.lope.context, torch.randn(2, 9, 12)
    targets = CORRUPTED if special == "routed" else None
    keys = {"decoder": keys_of([9, 9], 9)}
    context.begin_batch(BatchDescription(keys, REAL, CORRUPTED, targets))
    factor = 0.5 if special == "poison scale" else 1.0
    context.begin_stage(StageDescription(poison_scale=factor, collects_usage=True))
    if special == "frozen":
        layer.lope.A.requires_grad_(False)
        layer.lope.B.normal_0.requires_grad_(False)
    expected, usage = results(layer, x), RouterUsage(layer)
    counted = usage.poison_means(), usage.means()
    assert not launched
    run_on_the_cpu(monkeypatch)
    assert_alike(results(layer, x), expected)
    again = usage.poison_means(), usage.means()
    assert str(again) != "({}, {})"
    for ours, theirs in zip(_numbers(again), _numbers(counted), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    drops = layer.lope.config.dropout > 0
    config = layer.lope.config
    routes = config.has_router and config.router == "rank" and special != "poison scale"
    wanted = ["projection_forward"] * drops + ["routing_forward", "routing_backward"] * routes
    assert launched == wanted + ["projection_backward"] * drops


def _numbers(tree: object) -> list[float]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [number for part in tree for number in _numbers(part)]
    return [] if tree is None else [float(tree)]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["conserve", "none"])
@pytest.mark.parametrize("is_purified", [False, True])
def test_masked_answers(
    make_layer: MakeLayer, monkeypatch, launched: list[str], mode: str, is_purified: bool
) -> None:
    layer = make_layer(num_poison=2).eval()
    context, x = layer.lope.context, torch.randn(2, 9, 12)
    if is_purified:
        purify(layer, context)
    context.answer_as(Answer("masked", CompensationConfig(mode=mode)))  # type: ignore[arg-type]
    with torch.no_grad():
        expected = layer(x)
        run_on_the_cpu(monkeypatch)
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    assert launched == ["masked_masked"]
    layer.train()
    results(layer, x)  # with gradients the PyTorch form masks
    assert launched == ["masked_masked"]


def test_other_answers_and_types(make_layer: MakeLayer, monkeypatch, launched: list[str]) -> None:
    base = nn.Linear(12, 10).bfloat16()
    layer = make_layer(base).eval()
    x = torch.randn(2, 9, 12).bfloat16()
    found = []
    for _ in range(2):
        for experts in ("all", "masked", "masked_normal", "none"):
            with torch.no_grad(), layer.lope.context.answering(experts):
                found.append(layer(x))
        run_on_the_cpu(monkeypatch)
    for ours, theirs in zip(found[4:], found[:4], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)
    assert launched == ["routing_forward", "masked_masked"]


def test_ranks_that_are_too_large_take_the_pytorch_form(
    make_layer: MakeLayer, keys_of, monkeypatch, launched: list[str]
) -> None:
    layer = make_layer(rank=launching.MAX_RANK + 1, dropout=0.1).train()
    layer.lope.context.begin_batch(BatchDescription({"decoder": keys_of([9, 9], 9)}))
    run_on_the_cpu(monkeypatch)
    results(layer, torch.randn(2, 9, 12))
    assert not launched


@pytest.mark.parametrize("experts", ["masked", "all"])
def test_the_normal_experts_weights_are_those_of_the_answer(
    make_layer: MakeLayer, monkeypatch, launched: list[str], experts: str
) -> None:
    """What an export asks for, also where a kernel would weigh the experts and tell nobody."""
    layer = make_layer(num_poison=2 * (experts == "masked")).eval()
    x, adapter = torch.randn(2, 9, 12), layer.lope
    adapter.context.answer_as(experts)  # type: ignore[arg-type]
    with torch.no_grad():
        answer = layer(x) - layer.base(x)
        run_on_the_cpu(monkeypatch)
        weights = adapter.normal_weights(x)
        experts_OR = [getattr(adapter.B, name) for name in adapter.B.normal_names]
        each = torch.stack([x @ adapter.A.t() @ B.t() for B in experts_OR], dim=-1)
    expected = (each * weights.unsqueeze(-2)).sum(-1) * adapter.config.scaling
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-4)
    assert not launched
