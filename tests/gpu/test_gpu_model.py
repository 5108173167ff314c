"""NF4 layers and the head's loss on a GPU, against bitsandbytes' own and the CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lope_dist.config.model import ModelConfig
from lope_dist.model.build import load_model
from lope_dist.model.loss_head import LossHead, Targets
from lope_dist.model.nf4 import NF4Linear, quantize, quantize_scales
from lope_dist.model.placement import Replicated

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_quantizer_gives_the_cpus_bytes(device: torch.device, dtype: torch.dtype) -> None:
    weight = (torch.randn(1 << 18) * 0.02).to(dtype)
    packed, scales = quantize(weight)
    on_device, scales_there = quantize(weight.to(device))
    assert float((packed != on_device.cpu()).double().mean()) <= 1e-4
    torch.testing.assert_close(scales_there.cpu(), scales)
    codes, _ = quantize_scales(scales)
    there, _ = quantize_scales(scales.to(device))
    assert float((codes != there.cpu()).double().mean()) <= 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_loaded_onto_the_device(device: torch.device, tiny_llama, dtype: str) -> None:
    config = ModelConfig(name_or_path=str(tiny_llama), dtype=dtype)  # type: ignore[arg-type]
    here, there = (
        load_model(config, Replicated(where), progress=False)
        for where in (torch.device("cpu"), device)
    )
    tensors = [*there.named_parameters(), *there.named_buffers()]
    assert [name for name, t in tensors if t.device.type != device.type] == []
    ids = torch.arange(40).view(2, 20) + 60
    with torch.no_grad():
        expected = here(input_ids=ids).logits
        logits = there(input_ids=ids.to(device)).logits.cpu()
    limit = 1e-2 if dtype == "float32" else 8e-2
    assert float((logits - expected).abs().max() / expected.abs().max()) <= limit
    layers = [layer for layer in there.modules() if isinstance(layer, NF4Linear)]
    for layer in layers[:2]:  # from one token, where bitsandbytes has another kernel, to many
        full = layer.dequantized().double()
        for tokens in (1, 7, 513):
            x = torch.randn(1, tokens, layer.in_features, device=device, dtype=layer.weight.dtype)
            x.requires_grad_()
            y = layer(x)
            y.backward(torch.ones_like(y))
            assert x.grad is not None
            for ours, exact in (
                (y, F.linear(x.double(), full)),
                (x.grad, torch.ones_like(y).double() @ full),
            ):
                limit = 1e-4 if dtype == "float32" else 2e-2
                assert float((ours - exact).abs().max() / exact.abs().max()) <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_heads_loss_is_cross_entropy(device: torch.device, dtype: torch.dtype) -> None:
    """With Liger where it is installed, and chunked without."""
    head = LossHead(256, 8000, False, dtype)
    weight = (torch.randn(8000, 256) * 0.05).to(device, dtype)
    head.weight = torch.nn.Parameter(weight, requires_grad=False)
    x = torch.randn(2, 300, 256, device=device).to(dtype)
    positions = torch.arange(0, 600, 2, device=device)
    labels = torch.randint(8000, (300,), device=device)
    own = x.clone().requires_grad_()
    logits = F.linear(own.flatten(0, 1)[positions].float(), head.weight.float())
    expected = F.cross_entropy(logits, labels, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, own)
    own = x.clone().requires_grad_()
    with head.answering(Targets(positions, labels)):
        loss = head(own)
    (grad,) = torch.autograd.grad(loss, own)
    slack = 1e-4 if dtype == torch.float32 else 2e-2
    assert float((loss - expected).abs() / expected) <= slack
    assert float((grad - wanted).abs().max() / wanted.abs().max()) <= slack
