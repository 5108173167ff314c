"""Banks, `Conv1D` and linear layers of other classes: the same numbers, and nothing is kept."""

from typing import Any

import pytest
import torch
from support.banks import MODELS
from support.filling import fill, pack
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from lope_dist.adapters.inject import inject
from lope_dist.adapters.lope import lope_layers
from lope_dist.adapters.targets import find_targets, linear_layers
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import build_meta_model
from lope_dist.model.frozen_module import FrozenModule
from lope_dist.model.nf4 import PackedWeight, packed_weights
from lope_dist.model.nf4_layout import PackedLayout
from lope_dist.model.quantization import quantization_of

IDS = torch.arange(3, 43).view(2, 20)


def _pair(model_type: str, device: str = "cpu", **settings: Any) -> tuple[Any, nn.Module]:
    """Return our model, and the stock one with the same weights, rounded by bitsandbytes."""
    settings = {"attention": "eager", "dtype": "float32"} | settings
    experts = settings.pop("experts", None)
    config = ModelConfig(name_or_path="x", **settings)
    arch = AutoConfig.for_model(model_type, **MODELS[model_type])
    ours = build_meta_model(config, arch)
    torch.manual_seed(0)
    stock = AutoModelForCausalLM.from_config(
        ours.config, dtype=getattr(torch, config.dtype), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in stock.parameters():  # norms and biases are not one and zero
            parameter.add_(0.05 * torch.randn_like(parameter)).requires_grad_(False)
    rounded = fill(ours, stock.to(device))
    if config.quantization == "nf4":
        assert quantization_of(ours, config).quantized == sum(x.numel() for x in rounded.values())
    if experts:
        for model in (ours, stock):
            model.set_experts_implementation(experts)  # pyright: ignore
    return nn.Module.to(ours, device).eval(), stock.eval()


def _logits(model: Any) -> tuple[Tensor, Tensor]:
    """Return the logits, and the embeddings that their gradient flows to."""
    inputs: list[Tensor] = []

    def as_leaf(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        inputs.append(output.detach().requires_grad_())
        return inputs[0]

    with model.get_input_embeddings().register_forward_hook(as_leaf):
        return model(input_ids=IDS.to(model.device)).logits, inputs[0]


def _gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    logits.float().square().mean().backward()
    assert inputs.grad is not None
    return inputs.grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("model_type", MODELS)
def test_logits_and_gradients_are_those_of_the_dequantized_weights(
    model_type: str, quantization: str, dtype: str
) -> None:
    ours, stock = (_logits(m) for m in _pair(model_type, quantization=quantization, dtype=dtype))
    assert torch.equal(ours[0], stock[0])
    assert torch.equal(_gradient(*ours), _gradient(*stock))


class _Made(TorchDispatchMode):
    """Remembers, weakly, every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def alive(self, model: nn.Module) -> int:
        """Return the bytes that are still held, beside the model's own."""
        own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
        made = [value for key, value in self.storages.items() if key not in own]
        return sum(size for reference, size in made if not reference.expired())


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("model_type", "experts"),
    [
        *((name, way) for name in ("mixtral", "gpt_oss") for way in ("grouped_mm", "eager")),
        *((name, None) for name in ("llama4_text", "gpt2", "falcon")),
    ],
)
def test_not_a_byte_more_is_saved_than_by_the_stock_model(
    model_type: str, experts: str | None, nested: bool
) -> None:
    ours, stock = _pair(model_type, experts=experts, double_quantization=nested)
    kept, results = [], []
    for model in (ours, stock):
        with _Made() as made:
            results.append(_logits(model))
        kept.append(made.alive(model))
    assert kept[0] <= kept[1]
    assert torch.equal(_gradient(*results[0]), _gradient(*results[1]))


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "gpt2", "falcon"])
def test_a_weight_may_go_after_forward_and_come_back_elsewhere(
    model_type: str, quantization: str
) -> None:
    ours, stock = _pair(model_type, quantization=quantization)
    logits = _logits(ours)
    frozen = [m for m in ours.modules() if isinstance(m, FrozenModule)]
    weights = [
        (parameter, parameter.data.clone(), StorageWeakRef(parameter.data.untyped_storage()))
        for module in frozen
        for name, parameter in module.named_parameters(recurse=False)
        if not name.endswith("bias")
    ]
    for parameter, _, _ in weights:
        parameter.data = torch.empty(0)  # as ZeRO-3 does
    assert all(reference.expired() for *_, reference in weights)
    for parameter, copy, _ in weights:
        parameter.data = copy
    assert torch.equal(_gradient(*logits), _gradient(*_logits(stock)))


def test_a_weight_that_is_not_gathered_for_backward_is_no_silent_zero() -> None:
    ours, _ = _pair("mixtral")
    logits, inputs = _logits(ours)
    ours.model.layers[0].mlp.experts.down_proj.data = torch.empty(0)
    with pytest.raises(AssertionError, match="not gathered"):
        _gradient(logits, inputs)


def test_after_a_forward_the_parameters_are_found_again() -> None:
    ours, _ = _pair("mixtral")
    bank = ours.model.layers[0].mlp.experts
    with pytest.raises(RuntimeError):  # in the middle, on top of it
        bank(torch.zeros(4, 3), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2))
    for name in packed_weights(bank):
        assert isinstance(getattr(bank, name), nn.Parameter)
    assert set(packed_weights(bank)) == {"gate_up_proj", "down_proj"}


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_is_dequantized_to_the_same_bits(nested: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    value = torch.randn(3, 128, 192).to(dtype)
    packed = PackedWeight(value.shape, PackedLayout(value.numel(), dtype, nested))
    data = pack(packed, value)
    whole = packed.dequantize(data).view(-1)
    size = value.numel()
    for start, stop in [(0, 1), (5, 70), (128 * 192, 2 * 128 * 192), (size - 3, size), (0, size)]:
        part, first = packed.dequantize_part(data, start, stop)
        assert torch.equal(part[start - first : stop - first], whole[start:stop])
        assert part.numel() <= max(stop - start + 2 * 64 * 256, 64)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize(("model_type", "target"), [("gpt2", "c_attn"), ("falcon", "dense")])
def test_adapters_stand_beside_layers_of_other_classes(
    model_type: str, target: str, quantization: str
) -> None:
    ours, _ = _pair(model_type, quantization=quantization)
    base = _logits(ours)[0]
    adapter = AdapterConfig.model_validate({"dropout": 0.0, "rank": 2})
    inject(ours, adapter, targets=(target,), stream_of=lambda _: "decoder", seed=0)
    assert len(lope_layers(ours)) == 2
    assert torch.equal(_logits(ours)[0], base)
    for layer in lope_layers(ours).values():
        nn.init.normal_(layer.lope.B.normal_0)
    ours.train()
    logits = _logits(ours)[0]
    assert not logits.allclose(base, atol=1e-2)
    logits.square().mean().backward()
    assert all(layer.lope.A.grad.abs().max() > 0 for layer in lope_layers(ours).values())


def test_banks_and_routers_are_no_targets() -> None:
    ours, _ = _pair("mixtral")
    with pytest.raises(LopeError, match=r"'down_proj' names model\.layers\.0\.mlp\.experts\.down"):
        find_targets(ours, ["q_proj", "down_proj"])
    ours, _ = _pair("llama4_text")
    assert "model.layers.0.feed_forward.router" not in linear_layers(ours)
    with pytest.raises(LopeError, match=r"'router' .*"):
        find_targets(ours, ["router"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_on_a_gpu_the_grouped_product_saves_no_more_than_the_stock_models(model_type: str) -> None:
    ours, stock = _pair(model_type, "cuda", dtype="bfloat16", experts="grouped_mm")
    kept, results = [], []
    for model in (ours, stock):
        _logits(model)  # what is made once, by libraries
        before = torch.cuda.memory_allocated()
        results.append(_logits(model))
        kept.append(torch.cuda.memory_allocated() - before)
    assert kept[0] <= kept[1]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0.05, atol=0.05)
    gradients = [_gradient(*result) for result in results]
    torch.testing.assert_close(*gradients, rtol=0.05, atol=1e-4)
