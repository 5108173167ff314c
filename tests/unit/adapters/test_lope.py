from __future__ import annotations

from collections.abc import Callable

import bitsandbytes as bnb
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.counter_noise import keep_bits, keep_scale
from lope_dist.adapters.lope import LopeLinear
from lope_dist.adapters.usage import RouterUsage
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role

MakeLayer = Callable[..., LopeLinear]
KeysOf = Callable[[list[int], int], Tensor]


def experts_of(layer: LopeLinear) -> list[Tensor]:
    bank = layer.lope.B
    return [getattr(bank, n) for n in (*bank.normal_names, *bank.poison_names)]


def plain_sum(layer: LopeLinear, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """`W0 x + s * sum_i w_i B_i A x`, expert by expert; ``weights`` instead of the router's."""
    lope = layer.lope
    h = x @ lope.A.t()
    if weights is None and lope.config.has_router:
        read = h if lope.config.router == "rank" else x
        weights = (read @ lope.router.t()).softmax(-1)
    y = F.linear(x, layer.base.weight, layer.base.bias)
    for i, B in enumerate(experts_of(layer)):
        w = 1.0 if weights is None else weights[..., i : i + 1]
        y = y + lope.config.scaling * w * (h @ B.t())
    return y


SHAPES = [
    {},
    {"router": "input"},
    {"num_normal": 4, "num_poison": 0},
    {"num_normal": 1, "num_poison": 0},
    {"num_normal": 2, "num_poison": 2, "rank": 3},
]


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_one_gemm_equals_the_plain_sum_with_its_gradients(
    make_layer: MakeLayer, settings: dict
) -> None:
    layer = make_layer(**settings)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    x = torch.randn(2, 7, 12, requires_grad=True)
    weight = torch.randn(2, 7, 10)
    outputs, gradients = [], []
    for forward in (layer, lambda x: plain_sum(layer, x)):
        y = forward(x)
        outputs.append(y)
        gradients.append(torch.autograd.grad((y * weight).sum(), [x, *parameters]))
    torch.testing.assert_close(*outputs)
    assert (outputs[1] - layer.base(x)).abs().max() > 0.1
    for ours, plain in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trainable", [{"normal_1"}, {"poison_0"}, {"normal_0", "normal_2"}])
def test_frozen_experts_get_no_gradient_and_change_no_other(
    make_layer: MakeLayer, trainable: set[str]
) -> None:
    layer = make_layer()
    x = torch.randn(2, 7, 12)
    layer(x).pow(2).sum().backward()
    full = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    for name, parameter in layer.lope.B.named_parameters():
        parameter.requires_grad_(name in trainable)
    layer(x).pow(2).sum().backward()
    for name, parameter in layer.lope.B.named_parameters():
        if name in trainable:
            torch.testing.assert_close(parameter.grad, full[f"lope.B.{name}"])
        else:
            assert parameter.grad is None
    torch.testing.assert_close(layer.lope.A.grad, full["lope.A"])


def test_new_layer_is_its_base_and_router_is_random(make_layer: MakeLayer) -> None:
    layer = make_layer()
    for name, value in layer.initial_values().items():
        layer.get_parameter(name).data.copy_(value)
    x = torch.randn(2, 7, 12)
    assert torch.equal(layer(x), layer.base(x))
    assert all((B == 0).all() for B in experts_of(layer))
    router = layer.lope.router
    assert router.shape == (4, 4)
    assert (router.std(dim=0) > 0.02).all(), "equal rows keep the experts alike for ever"
    assert router.abs().max() <= 0.5
    assert layer.lope.A.shape == (4, 12)
    assert 0.2 < layer.lope.A.abs().max() <= 12**-0.5


def test_normal_experts_part_after_one_step(make_layer: MakeLayer) -> None:
    layer = make_layer()
    for name, value in layer.initial_values().items():
        layer.get_parameter(name).data.copy_(value)
    layer(torch.randn(2, 7, 12)).pow(2).sum().backward()
    grads = [B.grad for B in experts_of(layer)]
    for i in range(3):
        assert (grads[i] - grads[i + 1]).abs().max() > 1e-3 * grads[i].abs().max()


def test_initial_values_depend_on_name_and_seed_only(make_layer: MakeLayer) -> None:
    layer = make_layer()
    torch.rand(5)
    first, again = layer.initial_values(), make_layer().initial_values()
    assert all(torch.equal(first[n], again[n]) for n in first)
    layer.name = "l.v_proj"
    assert not torch.equal(layer.initial_values()["lope.A"], first["lope.A"])
    layer.name, layer.seed = "l.q_proj", 4
    assert not torch.equal(layer.initial_values()["lope.router"], first["lope.router"])


def test_none_is_the_base_to_the_bit(make_layer: MakeLayer) -> None:
    layer = make_layer()
    x = torch.randn(2, 7, 12)
    base = layer.base(x)
    assert not torch.equal(layer(x), base)
    layer.lope.context.answer_as("none")
    assert torch.equal(layer(x), base)


def test_plain_masking_leaves_nothing_of_the_poisoning_expert(make_layer: MakeLayer) -> None:
    layer = make_layer(compensation={"mode": "none"})
    layer.lope.context.answer_as("masked")
    x = torch.randn(2, 7, 12)
    w = (x @ layer.lope.A.t() @ layer.lope.router.t()).softmax(-1)
    expected = plain_sum(layer, x, w * torch.tensor([1.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(layer(x), expected)
    masked = layer(x)
    with torch.no_grad():  # not even a trace: another poisoning expert, infinite or NaN
        for value in (1e6, float("inf"), float("nan")):
            layer.lope.B.poison_0.fill_(value)
            assert torch.equal(layer(x), masked)


@pytest.mark.parametrize("num_poison", [1, 2])
def test_compensated_masking_equals_the_formula(make_layer: MakeLayer, num_poison: int) -> None:
    layer = make_layer(num_poison=num_poison)
    layer.lope.context.answer_as("masked")
    x = torch.randn(2, 7, 12)
    h = x @ layer.lope.A.t()
    w = (h @ layer.lope.router.t()).softmax(-1)
    y = torch.stack([h @ B.t() for B in experts_of(layer)], dim=-2)
    y_D = (w[..., 3:, None] * y[..., 3:, :]).sum(-2, keepdim=True)
    new = w[..., :3] * (1 + F.cosine_similarity(y[..., :3, :], y_D, dim=-1))
    new = new / new.sum(-1, keepdim=True)
    torch.testing.assert_close(layer(x), plain_sum(layer, x, F.pad(new, (0, num_poison))))


def test_masking_without_poisoning_expert_is_refused_when_set(make_layer: MakeLayer) -> None:
    context = make_layer(num_poison=0).lope.context
    with pytest.raises(LopeError, match=r"'masked'.*adapter\.num_poison is 0"):
        context.answer_as("masked")
    assert context.answer.experts == "all"
    with pytest.raises(LopeError, match=r"'non'.*masked_normal, none.*'none'\?"):
        context.answer_as("non")  # type: ignore[arg-type]


def test_dropout_is_inverted_keyed_and_only_in_training(
    make_layer: MakeLayer, keys_of: KeysOf
) -> None:
    layer = make_layer(dropout=0.3)
    lope = layer.lope
    x = torch.randn(2, 40, 12, requires_grad=True)
    keys = keys_of([40, 40], 40)
    lope.context.begin_batch(BatchDescription({"decoder": keys}))
    keep = keep_bits(keys, lope.salt, 12, 0.3) != 0
    assert 0.6 < keep.float().mean() < 0.8

    def oracle(x: Tensor) -> Tensor:
        h = (x * keep * keep_scale(0.3)) @ lope.A.t()
        w = (h @ lope.router.t()).softmax(-1)
        y = layer.base(x)
        for i, B in enumerate(experts_of(layer)):
            y = y + lope.config.scaling * w[..., i : i + 1] * (h @ B.t())
        return y

    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    ours = torch.autograd.grad(layer.train()(x).pow(2).sum(), wanted)
    plain = torch.autograd.grad(oracle(x).pow(2).sum(), wanted)
    torch.testing.assert_close(layer(x), oracle(x))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.eval()(x), plain_sum(layer, x))


def test_dropout_of_a_row_does_not_depend_on_the_batch(
    make_layer: MakeLayer, keys_of: KeysOf
) -> None:
    layer = make_layer(dropout=0.3).train()
    x, keys = torch.randn(3, 9, 12), keys_of([9, 9, 9], 9)
    layer.lope.context.begin_batch(BatchDescription({"decoder": keys}))
    whole = layer(x)
    layer.lope.context.begin_batch(BatchDescription({"decoder": keys[1:2, :5]}))
    torch.testing.assert_close(layer(x[1:2, :5]), whole[1:2, :5])


@pytest.mark.parametrize("given", [{}, {"decoder": 3}, {"encoder": 7}])
def test_training_dropout_without_keys_is_refused(
    make_layer: MakeLayer, keys_of: KeysOf, given: dict[str, int]
) -> None:
    layer = make_layer(dropout=0.1).train()
    keys = {stream: keys_of([n], n) for stream, n in given.items()}
    layer.lope.context.begin_batch(BatchDescription(keys))
    with pytest.raises(LopeError, match=r"token_keys\['decoder'\] of shape \(1, 7\)"):
        layer(torch.randn(1, 7, 12))


def test_names_and_roles_are_the_contract(make_layer: MakeLayer) -> None:
    layer = make_layer(num_normal=2, num_poison=1)
    names = {n for n, _ in layer.named_parameters() if not n.startswith("base.")}
    assert layer.roles() == {
        "lope.A": Role.SHARED_A,
        "lope.B.normal_0": Role.NORMAL_B,
        "lope.B.normal_1": Role.NORMAL_B,
        "lope.B.poison_0": Role.POISON_B,
        "lope.router": Role.ROUTER,
    }
    assert names == set(layer.roles())
    assert set(make_layer(num_normal=1, num_poison=0).roles()) == {"lope.A", "lope.B.normal_0"}
    assert all(p.dtype == torch.float32 for p in layer.parameters())


def test_bfloat16_input_is_never_copied_to_float32(make_layer: MakeLayer) -> None:
    layer = make_layer(nn.Linear(256, 64).bfloat16())
    x = torch.randn(1, 32, 256, dtype=torch.bfloat16, requires_grad=True)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    extra = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in saved
        if t.untyped_storage().data_ptr() not in own | {x.untyped_storage().data_ptr()}
    }
    # h, w and z of 32 tokens, and nothing as wide as x or y
    assert sum(extra.values()) <= 32 * 4 * (4 + 4 + 4 + 16)
    y.float().pow(2).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.lope.parameters())
    torch.testing.assert_close(y.float(), layer.float()(x.float()), atol=0.15, rtol=0.05)


def test_wraps_a_four_bit_layer(make_layer: MakeLayer) -> None:
    base = bnb.nn.Linear4bit(64, 128, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    base = base.to("cpu")
    base(torch.zeros(1, 64))
    layer = make_layer(base)
    x = torch.randn(1, 5, 64)
    assert layer.lope.A.shape == (4, 64)
    assert layer.lope.B.poison_0.shape == (128, 4)
    assert layer(x).shape == (1, 5, 128)
    assert not torch.equal(layer(x), base(x))


def test_router_usage_counts_real_tokens_and_resets(make_layer: MakeLayer) -> None:
    layer = make_layer()
    context = layer.lope.context
    x = torch.randn(2, 6, 12)
    layer(x)
    assert RouterUsage(layer).means() == {}
    context.begin_stage(StageDescription(collects_usage=True))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    context.begin_batch(BatchDescription(noise_mask=mask))
    layer(x)
    layer(x.flip(0))
    w = (x @ layer.lope.A.t() @ layer.lope.router.t()).softmax(-1)
    expected = torch.cat([w[mask.bool()], w.flip(0)[mask.bool()]]).mean(0)
    usage = RouterUsage(layer).means()
    torch.testing.assert_close(torch.tensor(usage[""]), expected)
    assert sum(usage[""]) == pytest.approx(1.0, abs=1e-5)
    assert RouterUsage(layer).means() == {}
    layer(x)
    other_rank = [2.0, 1.0, 1.0, 0.0, 4.0][-len(usage[""]) - 1 :]
    added = RouterUsage(layer).means(
        lambda own: [a + b for a, b in zip(own, other_rank, strict=True)]
    )
    both = (w[mask.bool()].sum(0) + torch.tensor(other_rank[:-1])) / (mask.sum() + 4)
    torch.testing.assert_close(torch.tensor(added[""]), both)
    assert set(layer.state_dict()) == {n for n, _ in layer.named_parameters()}
