import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from lope_dist.model.frozen import FrozenLinear


def _layer(bias: bool) -> FrozenLinear:
    torch.manual_seed(0)
    layer = FrozenLinear(8, 6, bias, torch.float32)
    layer.weight = torch.nn.Parameter(torch.randn(6, 8), requires_grad=False)
    if bias:
        layer.bias = torch.nn.Parameter(torch.randn(6), requires_grad=False)
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_equal_pytorchs(bias: bool) -> None:
    layer = _layer(bias)
    x = torch.randn(2, 5, 8)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = layer(inputs[0]), torch.nn.functional.linear(inputs[1], layer.weight, layer.bias)
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


def test_nothing_pins_the_weight_between_forward_and_backward() -> None:
    layer = _layer(bias=False)
    y = layer(torch.randn(3, 8, requires_grad=True))
    weight = StorageWeakRef(layer.weight.data.untyped_storage())
    layer.weight.data = torch.empty(0)
    assert weight.expired()
    with pytest.raises(AssertionError, match="not gathered"):
        y.sum().backward()
