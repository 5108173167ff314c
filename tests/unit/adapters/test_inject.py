from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.count import count_parameters
from lope_dist.adapters.inject import initialize, inject, set_trainable
from lope_dist.adapters.lope import LopeLinear, lope_layers, model_roles
from lope_dist.adapters.usage import RouterUsage
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.train import StageConfig, default_stages
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role

Fill = Callable[[nn.Module], None]
IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])


def adapt(model: nn.Module, *targets: str, seed: int = 3, **settings: object):
    return inject(
        model,
        AdapterConfig.model_validate({"dropout": 0.0, **settings}),
        targets=targets or ("q_proj", "v_proj"),
        stream_of=lambda name: "encoder" if name.startswith("encoder") else "decoder",
        seed=seed,
    )


def test_new_adapters_and_no_experts_give_the_base_logits_exactly(
    llama: nn.Module, fill_experts: Fill
) -> None:
    base = llama(IDS).logits
    context = adapt(llama)
    assert llama.lope_context is context
    assert torch.equal(llama(IDS).logits, base)
    fill_experts(llama)
    adapted = llama(IDS).logits
    assert (adapted - base).abs().max() > 1e-3
    with context.answering("masked"):
        assert (llama(IDS).logits - adapted).abs().max() > 1e-4
        with context.answering("none"):
            assert torch.equal(llama(IDS).logits, base)
    assert torch.equal(llama(IDS).logits, adapted)
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if ".lope.B." in name:
                parameter.zero_()
    assert torch.equal(llama(IDS).logits, base)


def test_targets_are_last_parts_or_dotted_suffixes(llama: nn.Module) -> None:
    adapt(llama, "0.self_attn.q_proj", "down_proj")
    assert set(lope_layers(llama)) == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    }
    layer = llama.get_submodule("model.layers.1.mlp.down_proj")
    assert isinstance(layer, LopeLinear)
    assert (layer.in_features, layer.out_features) == (48, 32)
    assert layer.weight is layer.base.weight


def test_target_that_matches_nothing_is_refused(llama: nn.Module) -> None:
    with pytest.raises(LopeError) as error:
        adapt(llama, "v_proj", "q_prj")
    assert str(error.value) == (
        "adapter.targets: 'q_prj' matches no linear layer of LlamaForCausalLM. Linear layers are: "
        "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head. "
        "Did you mean 'q_proj'?"
    )
    assert not lope_layers(llama)
    with pytest.raises(LopeError, match=r"'roj'.*'v_proj'\?"):
        adapt(llama, "roj")
    with pytest.raises(LopeError, match=r"adapter\.targets .*LlamaForCausalLM.*all-linear"):
        inject(llama, AdapterConfig(), targets=(), stream_of=str, seed=0)


def test_roles_cover_every_parameter_and_choose_what_trains(llama: nn.Module) -> None:
    before = [name for name, _ in llama.named_parameters()]
    adapt(llama, num_poison=2)
    roles = model_roles(llama)
    parameters = dict(llama.named_parameters())
    assert list(roles) == list(parameters)
    assert sum(role is Role.BASE for role in roles.values()) == len(before)
    assert {n for n, p in parameters.items() if p.requires_grad} == {
        n for n, role in roles.items() if role is not Role.BASE
    }
    name = "model.layers.1.self_attn.v_proj"
    assert roles[f"{name}.base.weight"] is Role.BASE
    assert roles[f"{name}.lope.B.poison_1"] is Role.POISON_B
    for stage in ({Role.SHARED_A, Role.POISON_B}, {Role.SHARED_A, Role.NORMAL_B, Role.ROUTER}):
        set_trainable(llama, stage)
        assert all(p.requires_grad == (roles[n] in stage) for n, p in parameters.items())


def test_meta_model_initialised_later_equals_one_injected_in_memory(llama: nn.Module) -> None:
    with torch.device("meta"):
        later = type(llama)(llama.config)
    adapt(later)
    assert all(p.is_meta for p in later.parameters())
    later.to_empty(device="cpu")
    initialize(later)
    adapt(llama)
    ours = dict(later.named_parameters())
    for name, parameter in llama.named_parameters():
        if ".lope." in name:
            assert torch.equal(parameter, ours[name]), name


def test_layers_start_different_and_seeds_matter(llama: nn.Module, t5: nn.Module) -> None:
    adapt(llama)
    first = [layer.lope.A for layer in lope_layers(llama).values()]
    assert not torch.equal(first[0], first[2])
    assert len({layer.lope.salt for layer in lope_layers(llama).values()}) == 4


def test_t5_layers_know_their_stream_and_the_context_the_encoder(t5: nn.Module) -> None:
    context = adapt(t5, "q", "v", "wo")
    assert context.noise_stream == "encoder"
    streams = {name: layer.lope.stream for name, layer in lope_layers(t5).items()}
    assert streams["encoder.block.0.layer.0.SelfAttention.q"] == "encoder"
    assert streams["decoder.block.1.layer.0.SelfAttention.v"] == "decoder"
    t5(input_ids=IDS, decoder_input_ids=IDS)  # its feed-forward reads `wo.weight.dtype`


def test_dropout_and_noise_survive_activation_checkpointing(
    llama: nn.Module, fill_experts: Fill, keys_of: Callable[[list[int], int], Tensor]
) -> None:
    context = adapt(llama, dropout=0.2)
    fill_experts(llama)
    context.begin_batch(BatchDescription({"decoder": keys_of([4, 4], 4)}, torch.ones(2, 4)))
    llama.train()
    gradients = []
    for use in (False, True):
        if use:
            llama.gradient_checkpointing_enable({"use_reentrant": False})
        llama.zero_grad()
        llama(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({n: p.grad for n, p in llama.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[1][n], g) for n, g in gradients[0].items())


def test_router_usage_by_layer(llama: nn.Module) -> None:
    context = adapt(llama)
    context.begin_stage(StageDescription(collects_usage=True))
    llama.train()(IDS)
    usage = RouterUsage(llama).means()
    assert set(usage) == set(lope_layers(llama))
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in usage.values())


def test_counts_by_role_and_stage(llama: nn.Module) -> None:
    base = sum(p.numel() for p in llama.parameters())
    adapt(llama)
    counts = count_parameters(llama, AdapterConfig(), default_stages(3, 1))
    A, B, router = 4 * 4 * 32, 2 * (32 + 16) * 4, 4 * 4 * 4
    assert counts["model_parameters"] == base
    assert counts["by_role"] == {
        "shared_a": A,
        "normal_b": 3 * B,
        "poison_b": B,
        "router": router,
    }
    assert counts["inference_parameters"] == A + 3 * B
    assert counts["percent_inference"] == pytest.approx(100 * (A + 3 * B) / base)
    assert counts["percent_with_router_and_poison"] == pytest.approx(
        100 * (A + 4 * B + router) / base
    )
    assert counts["trainable_by_stage"]["poison"]["total"] == A + B
    assert counts["trainable_by_stage"]["finetune"] == {
        "shared_a": A,
        "normal_b": 3 * B,
        "router": router,
        "total": A + 3 * B + router,
        "percent": pytest.approx(100 * (A + 3 * B + router) / base),
    }


def test_tied_weights_count_once(t5: nn.Module) -> None:
    adapt(t5, "q", "v")
    stages = {"finetune": StageConfig(trainable=(Role.SHARED_A,))}
    counts = count_parameters(t5, AdapterConfig(), stages)
    embeddings = 60 * 32
    rest = sum(
        p.numel() for n, p in t5.named_parameters() if ".lope." not in n and p.shape != (60, 32)
    )
    assert counts["model_parameters"] == rest + embeddings
