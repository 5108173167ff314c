import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch.multiprocessing.reductions import StorageWeakRef

from lope_dist.model import nf4
from lope_dist.model.nf4 import NF4Linear, quantize, quantize_scales
from lope_dist.model.nf4_layout import PackedLayout


def _fill(layer: NF4Linear, weight: torch.Tensor) -> None:
    packed, scales = quantize(weight.flatten())
    if layer.layout.nested:
        scales, layer.nested_scales = quantize_scales(scales)
    raw = torch.cat([packed, scales.view(torch.uint8)])
    padding = -raw.numel() % layer.layout.storage.itemsize
    raw = torch.cat([raw, torch.zeros(padding, dtype=torch.uint8)])
    layer.weight = torch.nn.Parameter(raw.view(layer.layout.storage), requires_grad=False)


def _pair(nested: bool = True, bias: bool = True) -> tuple[NF4Linear, Linear4bit]:
    """Our layer and bitsandbytes' own over the same weights, both never repacking."""
    torch.manual_seed(0)
    weight, bias_values = torch.randn(48, 128), torch.randn(48)
    ours = NF4Linear(128, 48, bias, torch.float32, nested)
    _fill(ours, weight)
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
    assert torch.equal(ours.packed()[0], stock.weight.data.view(torch.uint8).view(-1, 1))
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
    before = ours.weight.data.clone()
    trained = ours(x)
    ours.eval()
    with torch.no_grad():
        evaluated = ours(x)
    ours.train()
    assert torch.equal(ours.weight.data, before)
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
    with pytest.raises(AssertionError, match="gathered"):
        y.sum().backward()


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("nested", [True, False])
def test_packed_weight_and_state_are_bitsandbytes_own(storage: torch.dtype, nested: bool) -> None:
    torch.manual_seed(1)
    weight = torch.randn(20, 320)  # 100 blocks: the byte scales need padding in float32 alone
    layer = NF4Linear(320, 20, False, storage, nested)
    _fill(layer, weight.to(storage))
    packed, state = layer.packed()
    expected, expected_state = bnb.quantize_4bit(
        weight.to(storage), quant_type="nf4", compress_statistics=nested, quant_storage=storage
    )
    assert torch.equal(packed, expected.view(torch.uint8).view(-1, 1))
    assert (state.shape, state.dtype) == (expected_state.shape, expected_state.dtype)
    assert torch.equal(state.absmax, expected_state.absmax)
    assert torch.equal(state.code, expected_state.code)
    if nested:
        assert torch.equal(state.offset, expected_state.offset)
        assert torch.equal(state.state2.absmax, expected_state.state2.absmax)
        assert torch.equal(state.state2.code, expected_state.state2.code)
    back = bnb.dequantize_4bit(packed, state)
    assert torch.equal(back, bnb.dequantize_4bit(expected, expected_state))


@pytest.mark.parametrize("nested", [True, False])
def test_a_weight_too_large_for_one_call_is_the_same(nested: bool, monkeypatch) -> None:
    torch.manual_seed(1)
    layer = NF4Linear(300, 512, False, torch.float32, nested)  # nine and three eighths of the parts
    _fill(layer, torch.randn(512, 300))
    whole, sizes = layer.dequantized(), []
    at_once = bnb.dequantize_4bit

    def counting(packed, state):
        sizes.append(state.shape.numel())
        return at_once(packed, state)

    monkeypatch.setattr(nf4, "_MOST_AT_ONCE", 64 * 256)
    monkeypatch.setattr(nf4.bnb, "dequantize_4bit", counting)
    assert torch.equal(layer.dequantized(), whole)
    assert len(sizes) == 10
    assert max(sizes) == 64 * 256


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2, 7, 100])
def test_layout_ranges_cover_each_byte_once_however_cut(
    storage: torch.dtype, nested: bool, num_blocks: int
) -> None:
    layout = PackedLayout(64 * num_blocks, storage, nested)
    for world_size in (1, 2, 3, 5, 200):
        size = -(-layout.num_elements // world_size)
        packed_end = scales_end = 0
        for rank in range(world_size):
            span = [min(r * size, layout.num_elements) for r in (rank, rank + 1)]
            for (start, stop), end in (
                (layout.packed_range(*span), packed_end),
                (layout.scale_range(*span), scales_end),
            ):
                assert start == end
                assert stop >= start
            start, packed_end = layout.packed_range(*span)
            first, last = layout.block_range(*span)
            if start < packed_end:
                assert first * 32 <= start < first * 32 + 32
                assert last * 32 - 32 < packed_end <= last * 32
            else:
                assert first == last
            scales_end = layout.scale_range(*span)[1]
        assert (packed_end, scales_end) == (layout.packed_bytes, layout.scale_bytes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_quantizing_on_the_cpu_is_bit_equal_to_bitsandbytes(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    code = bnb.get_4bit_type("nf4", device="cpu")
    borders = (code[:-1] + code[1:]) / 2
    on_borders = torch.rand(40, 64)
    for row in on_borders:  # weights that fall on a border once scaled, and next to it
        row[0] = row.max() + 1
        row[1:16], row[16:31] = borders * row[0], torch.nextafter(borders, torch.ones(15)) * row[0]
    weights = [torch.randn(64 * 99), on_borders.flatten(), torch.zeros(128)]
    weights += [torch.randn(640) * 1e-30, torch.tensor([float("inf"), 1.0, -1.0, 0.0] * 16)]
    for weight in (each.to(dtype) for each in weights):
        packed, absmax = quantize(weight)
        expected, scales = torch.ops.bitsandbytes.quantize_4bit(weight, 64, "nf4", torch.uint8)
        assert torch.equal(packed, expected.view(-1))
        assert torch.equal(absmax, scales)


def test_scales_on_the_meta_device_leave_bitsandbytes_own_table_alone(monkeypatch) -> None:
    monkeypatch.setattr(bnb, "name2qmap", {})
    assert quantize_scales(torch.empty(4096, device="meta"))[0].is_meta
    values = torch.rand(4096)
    codes, _ = bnb.quantize_blockwise(values - values.mean(), blocksize=256)
    assert torch.equal(quantize_scales(values)[0], codes)
