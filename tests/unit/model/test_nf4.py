import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch.multiprocessing.reductions import StorageWeakRef

from lope_dist.model.nf4 import NF4Linear, packed_parameter, quant_state, quantize_flat


def _pair(nested: bool = True, bias: bool = True) -> tuple[NF4Linear, Linear4bit]:
    """Our layer and bitsandbytes' own over the same weights, both never repacking."""
    torch.manual_seed(0)
    weight, bias_values = torch.randn(48, 128), torch.randn(48)
    ours = NF4Linear(128, 48, bias, torch.float32, nested)
    packed, absmax = quantize_flat(weight.flatten(), torch.float32)
    state = quant_state(absmax, weight.shape, torch.float32, nested)
    ours.weight = packed_parameter(packed.view(-1, 1), ours, state)
    stock = Linear4bit(
        128,
        48,
        bias=bias,
        compute_dtype=torch.float32,
        compress_statistics=nested,
        quant_type="nf4",
        quant_storage=torch.float32,
    )
    stock.support_avx512bf16_for_cpu = False
    stock.weight = Params4bit(
        weight.clone(),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=nested,
        quant_storage=torch.float32,
        module=stock,
    )._quantize(torch.device("cpu"))
    if bias:
        ours.bias = torch.nn.Parameter(bias_values, requires_grad=False)
        stock.bias = torch.nn.Parameter(bias_values.clone(), requires_grad=False)
    return ours, stock


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradient_equal_bitsandbytes(nested: bool, bias: bool) -> None:
    ours, stock = _pair(nested, bias)
    assert torch.equal(ours.weight.data, stock.weight.data)
    x = torch.randn(2, 5, 128)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(i) for layer, i in zip((ours, stock), inputs, strict=True)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


def test_evaluation_leaves_weight_and_training_bit_equal() -> None:
    ours, _ = _pair()
    x = torch.randn(3, 128)
    before, state = ours.weight.data.clone(), ours.weight.quant_state
    trained = ours(x)
    ours.eval()
    with torch.no_grad():
        evaluated = ours(x)
    ours.train()
    assert torch.equal(ours.weight.data, before)
    assert ours.weight.quant_state is state
    assert not getattr(state, "packing_format_for_cpu", False)
    assert torch.equal(evaluated, trained)
    assert torch.equal(ours(x), trained)


def test_backward_reads_the_parameter_again_and_pins_nothing() -> None:
    """ZeRO-3 replaces `param.data` after the forward; a pinned view would keep the old one."""
    ours, _ = _pair()
    x = torch.randn(3, 128, requires_grad=True)
    y = ours(x)
    gathered = StorageWeakRef(ours.weight.data.untyped_storage())
    ours.weight.data = torch.empty(0)
    assert gathered.expired()
    with pytest.raises(AssertionError, match="not gathered"):
        y.sum().backward()


def test_chunks_and_block_aligned_parts_quantize_like_the_whole() -> None:
    torch.manual_seed(1)
    weight = torch.randn(64 * 100)
    packed, absmax = quantize_flat(weight, torch.bfloat16)
    part, part_absmax = quantize_flat(weight[64 * 7 : 64 * 31], torch.bfloat16)
    assert torch.equal(packed[16 * 7 : 16 * 31].view(torch.int16), part.view(torch.int16))
    assert torch.equal(absmax[7:31], part_absmax)
    whole, state = bnb.quantize_4bit(
        weight.view(64, 100),
        quant_type="nf4",
        compress_statistics=True,
        quant_storage=torch.bfloat16,
    )
    assert torch.equal(whole.flatten().view(torch.int16), packed.view(torch.int16))
    ours = quant_state(absmax, torch.Size((64, 100)), torch.float32, nested=True)
    assert torch.equal(ours.absmax, state.absmax)
    assert torch.equal(ours.offset, state.offset)
    assert torch.equal(ours.state2.absmax, state.state2.absmax)
