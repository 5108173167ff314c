"""A loss that hangs on a layer's output, against the same written into the model's loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lope_dist.adapters.auxiliary import ORTHOGONALITY, AuxiliaryLosses, skew

WEIGHT = 0.7


class Penalized(nn.Module):
    """A product whose matrix is kept orthogonal."""

    def __init__(self, auxiliary: AuxiliaryLosses | None) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.auxiliary = auxiliary

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, and let the penalty hang on the product."""
        y = x @ self.matrix
        if self.auxiliary is not None and self.auxiliary.is_on(ORTHOGONALITY):
            y = self.auxiliary.make_orthogonal(y, self.matrix)
        return y


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(3)


def losses(num_layers: int = 1) -> AuxiliaryLosses:
    return AuxiliaryLosses({ORTHOGONALITY: WEIGHT}, {ORTHOGONALITY: num_layers})


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_gradients_are_those_of_the_term_in_the_loss(scale: float) -> None:
    """Two layers, one after the other; 8 of the step's 20 tokens are here."""
    auxiliary = losses(2)
    auxiliary.begin(8, 20, scale)
    layers = nn.Sequential(Penalized(auxiliary), Penalized(auxiliary))
    x = torch.randn(8, 4, requires_grad=True)
    matrices = [layer.matrix for layer in layers]
    found = torch.autograd.grad(layers(x).square().sum() * scale, [x, *matrices])
    (value,) = auxiliary.take()

    for layer in layers:
        layer.auxiliary = None
    expected = sum(skew(matrix) for matrix in matrices) / 2 * 8 / 20
    torch.testing.assert_close(value, expected.detach())
    loss = layers(x).square().sum() + WEIGHT * expected
    for ours, theirs in zip(found, torch.autograd.grad(loss * scale, [x, *matrices]), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_changes_neither_value_nor_gradients(use_reentrant: bool) -> None:
    auxiliary = losses()
    layer, x = Penalized(auxiliary), torch.randn(8, 4, requires_grad=True)
    results = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        auxiliary.begin(8, 8, 1.0)
        x.grad = layer.matrix.grad = None
        run(x).square().sum().backward()
        results.append([x.grad, layer.matrix.grad, *auxiliary.take()])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_values_add_up_over_the_micro_batches_of_a_step() -> None:
    auxiliary = losses()
    layer = Penalized(auxiliary)
    for num_tokens in (5, 3):
        auxiliary.begin(num_tokens, 8, 1.0)
        layer(torch.randn(num_tokens, 4)).sum().backward()
    (value,) = auxiliary.take()
    torch.testing.assert_close(value, skew(layer.matrix).detach())
    assert float(auxiliary.take()[0]) == 0, "a step's values are taken once"


def test_nothing_is_added_without_a_graph() -> None:
    auxiliary = losses()
    layer = Penalized(auxiliary)
    auxiliary.begin(8, 8, 1.0)
    with torch.no_grad():
        layer(torch.randn(8, 4))
    assert float(auxiliary.take()[0]) == 0
