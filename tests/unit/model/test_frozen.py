import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

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


class _Operators(TorchDispatchMode):
    """Notes the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def test_a_part_of_the_tokens_is_one_product() -> None:
    """As a product for each row of the batch it would copy the weight as often."""
    layer, x = _layer(bias=False), torch.randn(4, 7, 8)
    with torch.no_grad(), _Operators() as ran:
        y = layer(x[:, 5:])
    assert ran.names & {"mm", "addmm", "linear"}
    assert "bmm" not in ran.names
    torch.testing.assert_close(y, layer(x)[:, 5:])


def test_rows_of_the_weight_in_turn_give_the_same() -> None:
    layer, x = _layer(bias=False), torch.randn(4, 7, 8)
    whole = layer(x)
    layer.rows = [(0, layer.weight[:2]), (2, layer.weight[2:5]), (5, layer.weight[5:])]
    assert layer.takes_rows
    torch.testing.assert_close(layer(x), whole)
