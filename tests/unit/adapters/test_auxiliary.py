"""The losses that layers add, against the same written down plainly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lope_dist.adapters.auxiliary import SEPARATION, SUPERVISION, AuxiliaryLosses, overlap
from lope_dist.adapters.lope import LopeLinear

MakeLayer = Callable[..., LopeLinear]
WEIGHTS = {SUPERVISION: 0.7, SEPARATION: 1.3}
REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
CORRUPTED = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
SHAPES = [{}, {"router": "input"}, {"num_normal": 2, "num_poison": 2, "rank": 3}]


def prepared(
    layers: list[LopeLinear], *, own: int = 8, step: int = 20, scale: float = 1.0
) -> AuxiliaryLosses:
    """Let the layers add both losses to a micro-batch of ``own`` of a step's tokens."""
    auxiliary = AuxiliaryLosses(WEIGHTS, {SUPERVISION: len(layers), SEPARATION: len(layers)})
    auxiliary.begin(own, step, scale)
    for layer in layers:
        context = layer.lope.context
        context.auxiliary, context.corrupted_mask, context.noise_mask = auxiliary, CORRUPTED, REAL
        layer.train()
    return auxiliary


def plain_terms(layer: LopeLinear, x: Tensor) -> dict[str, Tensor]:
    """Both losses of one layer as their formulas have them; supervision summed over tokens."""
    lope, bank = layer.lope, layer.lope.B
    read = x @ lope.A.t() if lope.config.router == "rank" else x
    w = (read @ lope.router.t()).softmax(-1)
    p = w[..., len(bank.normal_names) :].sum(-1)
    c = CORRUPTED.float()
    supervision = -((c * p.log() + (1 - c) * (1 - p).log()) * REAL).sum()
    pairs = []
    for i in bank.normal_names:
        for j in bank.poison_names:
            normal, poison = getattr(bank, i), getattr(bank, j)
            pairs.append(
                (normal.t() @ poison).norm() ** 2 / normal.norm() ** 2 / poison.norm() ** 2
            )
    return {SUPERVISION: supervision, SEPARATION: torch.stack(pairs).mean()}


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_gradients_are_those_of_the_terms_in_the_loss(
    make_layer: MakeLayer, settings: dict, scale: float
) -> None:
    """Two layers, one after the other; 8 of the step's 20 tokens are here."""
    layers = [make_layer(nn.Linear(12, 12), **settings), make_layer(**settings)]
    with torch.no_grad():
        layers[1].lope.router.mul_(-2.0)
    auxiliary = prepared(layers, scale=scale)
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    x, weight = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 10)

    loss = (layers[1](layers[0](x)) * weight).sum()
    found = torch.autograd.grad(loss * scale, [x, *parameters])
    values = dict(zip(auxiliary.names, auxiliary.take(), strict=True))

    for layer in layers:
        layer.lope.context.auxiliary = None
    between = layers[0](x)
    plain = (layers[1](between) * weight).sum()
    terms = [plain_terms(layers[0], x), plain_terms(layers[1], between)]
    expected = {
        SUPERVISION: sum(term[SUPERVISION] for term in terms) / 20 / 2,
        SEPARATION: sum(term[SEPARATION] for term in terms) / 2 * 8 / 20,
    }
    plain = plain + sum(WEIGHTS[name] * expected[name] for name in WEIGHTS)
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name].detach())
    wanted = torch.autograd.grad(plain * scale, [x, *parameters])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_changes_neither_values_nor_gradients(
    make_layer: MakeLayer, use_reentrant: bool
) -> None:
    layer = make_layer()
    parameters = [p for p in layer.parameters() if p.requires_grad]
    x = torch.randn(2, 5, 12, requires_grad=True)
    results = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        auxiliary = prepared([layer])
        run(x).square().sum().backward()
        gradients = [p.grad for p in (x, *parameters)]
        values = auxiliary.take()
        assert all(value > 0 for value in values)
        results.append([*gradients, *values])
        for p in (x, *parameters):
            p.grad = None
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_values_add_up_over_the_micro_batches_of_a_step(make_layer: MakeLayer) -> None:
    layer, x = make_layer(), torch.randn(2, 5, 12)
    auxiliary = prepared([layer], own=8, step=8)
    layer(x).sum().backward()
    whole = auxiliary.take()
    for row, own in ((0, 5), (1, 3)):
        auxiliary.begin(own, 8, 1.0)
        context = layer.lope.context
        context.corrupted_mask, context.noise_mask = CORRUPTED[row : row + 1], REAL[row : row + 1]
        layer(x[row : row + 1]).sum().backward()
    for parts, value in zip(auxiliary.take(), whole, strict=True):
        torch.testing.assert_close(parts, value)
    assert [float(value) for value in auxiliary.take()] == [0.0, 0.0]


def test_nothing_is_added_in_eval_and_without_a_graph(make_layer: MakeLayer) -> None:
    layer, x = make_layer(), torch.randn(2, 5, 12)
    auxiliary = prepared([layer])
    with torch.no_grad():
        layer(x)
    layer.eval()
    layer(x).sum().backward()
    assert [float(value) for value in auxiliary.take()] == [0.0, 0.0]


def test_overlap_runs_from_none_to_one_direction() -> None:
    eye = torch.eye(8)
    assert overlap([eye[:, :2]], [eye[:, 2:4]]) == 0
    line = eye[:, :1].repeat(1, 2)
    torch.testing.assert_close(overlap([line], [-3 * line]), torch.tensor(1.0))
    torch.testing.assert_close(overlap([line, eye[:, 4:6]], [line]), torch.tensor(0.5))


def test_an_expert_of_zeros_has_no_direction_and_no_gradient() -> None:
    zero = torch.zeros(8, 2, requires_grad=True)
    normal, poison = (torch.randn(8, 2, requires_grad=True) for _ in range(2))
    value = overlap([zero, normal], [poison])
    torch.testing.assert_close(value, overlap([normal], [poison]) / 2)
    gradients = torch.autograd.grad(value, [zero, normal, poison])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0].any()
    (only,) = torch.autograd.grad(overlap([zero], [torch.zeros(8, 2)]), [zero])
    assert not only.any()


def test_supervision_is_finite_where_the_router_is_certain(make_layer: MakeLayer) -> None:
    layer = make_layer()
    auxiliary = prepared([layer])
    with torch.no_grad():
        layer.lope.router.mul_(1e4)
    layer(torch.randn(2, 5, 12)).sum().backward()
    assert layer.lope.router.grad is not None
    assert layer.lope.router.grad.isfinite().all()
    assert all(value.isfinite() for value in auxiliary.take())


def test_supervision_teaches_the_router(make_layer: MakeLayer) -> None:
    """Corrupted tokens of one kind, clean ones of another: the poisoning weight parts them."""
    layer = make_layer()
    auxiliary = prepared([layer])
    x = F.one_hot(CORRUPTED.long(), 12).float() * 3
    optimizer = torch.optim.Adam([layer.lope.router], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (layer(x).sum() * 0).backward()
        optimizer.step()
    auxiliary.take()
    weights = (x @ layer.lope.A.t() @ layer.lope.router.t()).softmax(-1)[..., -1]
    assert weights[CORRUPTED].min() > 0.8
    assert weights[REAL.bool() & ~CORRUPTED].max() < 0.1
