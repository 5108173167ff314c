"""The adapter on a GPU, its Triton kernels included, against the CPU's PyTorch form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import AdapterContext, Answer, StageDescription
from lope_dist.adapters.counter_noise import keep_bits, uniform
from lope_dist.adapters.embedding_noise import noisy_embeddings
from lope_dist.adapters.inject import initialize_module
from lope_dist.adapters.kernels import launching
from lope_dist.adapters.lope import LopeLinear
from lope_dist.adapters.usage import RouterUsage
from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.core.seeds import token_keys

pytestmark = pytest.mark.gpu
ROWS, LENGTH, IN, OUT = 3, 347, 192, 320  # blocks that are filled, and that are not
CPU = torch.device("cpu")


def keys() -> Tensor:
    return torch.stack([torch.from_numpy(token_keys(0, "t", 0, i, LENGTH)) for i in range(ROWS)])


def build(device: torch.device, dtype: torch.dtype, **settings: Any) -> LopeLinear:
    """Return a layer of the same values on any device."""
    config = AdapterConfig.model_validate(settings)
    context = AdapterContext(
        num_normal=config.num_normal,
        num_poison=config.num_poison,
        compensation=config.compensation,
    )
    base = torch.nn.Linear(IN, OUT, device=device, dtype=dtype).requires_grad_(False)
    layer = LopeLinear(base, config, context, name="l", stream="decoder", seed=0, device=device)
    initialize_module(layer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith(("base", "lope.B")):
                values = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.copy_(values.to(dtype))
    mask = torch.ones(ROWS, LENGTH, device=device)
    context.begin_batch(BatchDescription({"decoder": keys().to(device)}, mask))
    return layer


def step(device: torch.device, dtype: torch.dtype, **settings: Any) -> dict[str, Tensor]:
    """Return the output, all gradients and the router's usage of a training step."""
    layer = build(device, dtype, **settings).train()
    layer.lope.context.begin_stage(StageDescription(collects_usage=True))
    x = torch.randn(ROWS, LENGTH, IN, generator=torch.Generator().manual_seed(2))
    x = x.to(device, dtype).requires_grad_()
    y = layer(x)
    y.float().square().mean().backward()
    found = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    for name, usage in RouterUsage(layer).means().items():
        found[f"usage {name}"] = torch.tensor(usage)
    assert x.grad is not None
    return {"y": y, "x": x.grad, **found}


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor], limit: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        a, b = ours[name].detach().cpu().double(), value.detach().cpu().double()
        assert float((a - b).abs().max()) <= limit * float(b.abs().max()), name


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.1},
        {"dropout": 0.0},
        {"dropout": 0.3, "rank": 24, "num_poison": 2},
        {"dropout": 0.3, "rank": launching.MAX_RANK, "num_normal": 5},
        {"dropout": 0.3, "rank": launching.MAX_RANK + 1},
        {"dropout": 0.1, "num_normal": 1, "num_poison": 0},
        {"dropout": 0.1, "router": "input"},
    ],
    ids=str,
)
def test_a_training_step_is_the_cpus(device: torch.device, settings: dict[str, Any]) -> None:
    expected = step(CPU, torch.float32, **settings)
    assert_near(step(device, torch.float32, **settings), expected, 1e-4)
    assert_near(step(device, torch.bfloat16, **settings), expected, 5e-2)


def test_the_gpu_takes_the_kernels(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    launch = launching.launch

    def noted(kernel: Any, *rest: Any, **constants: Any) -> None:
        names.append(kernel.fn.__qualname__)
        launch(kernel, *rest, **constants)

    monkeypatch.setattr(launching, "launch", noted)
    step(device, torch.bfloat16, dropout=0.1)
    assert len(names) == 4


@pytest.mark.parametrize("mode", ["conserve", "unit", "renormalize", "none"])
@pytest.mark.parametrize("settings", [{}, {"num_poison": 2, "rank": 20}], ids=str)
def test_masked_answers_are_the_cpus(device, mode: str, settings: dict[str, Any]) -> None:
    x = torch.randn(ROWS, LENGTH, IN)
    found = []
    for where, dtype in (
        (CPU, torch.float32),
        (device, torch.float32),
        (device, torch.bfloat16),
    ):
        layer = build(where, dtype, **settings).eval()
        answer = Answer("masked", CompensationConfig(mode=mode))  # type: ignore[arg-type]
        with torch.no_grad(), layer.lope.context.answering(answer):
            found.append({"y": layer(x.to(where, dtype))})
    assert_near(found[1], found[0], 1e-4)
    assert_near(found[2], found[0], 5e-2)


def test_random_bits_are_the_cpus(device: torch.device) -> None:
    own, there, E = keys(), keys().to(device), torch.randn(ROWS, LENGTH, 64)
    for width in (64, 577):
        for salt in (7, 0xFFFFFFFF):
            expected = keep_bits(own, salt, width, 0.1)
            assert torch.equal(keep_bits(there, salt, width, 0.1).cpu(), expected)
            assert torch.equal(uniform(there, salt, width).cpu(), uniform(own, salt, width))
    mask, config = torch.ones(ROWS, LENGTH), EmbeddingNoiseConfig()
    noised = noisy_embeddings(E.to(device), there, mask.to(device), config, 7)
    torch.testing.assert_close(noised.cpu(), noisy_embeddings(E, own, mask, config, 7))


def test_the_kernels_masks_are_bit_equal(device: torch.device) -> None:
    from lope_dist.adapters.gemms import project

    D = launching.MAX_RANK
    x = torch.ones(ROWS * LENGTH, D, device=device).requires_grad_()
    h = project(x, torch.eye(D, device=device), keys().to(device).flatten(), 0xF0000001, 0.2)
    h.sum().backward()
    kept = keep_bits(keys().flatten(), 0xF0000001, D, 0.2) != 0
    assert x.grad is not None
    assert torch.equal((h != 0).cpu(), kept)
    assert torch.equal((x.grad != 0).cpu(), kept)
