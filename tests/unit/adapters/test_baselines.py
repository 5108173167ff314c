"""The baselines of peft as adapters: the model they make, against peft's own."""

from __future__ import annotations

from itertools import product

import peft
import pytest
import torch
from pydantic import TypeAdapter
from support.architectures import tiny_arch
from support.baselines import BASELINES
from support.tiny import small_llama
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from lope_dist.adapters.adalora import E, num_matrices, peft_config
from lope_dist.adapters.attach import attach
from lope_dist.adapters.auxiliary import ORTHOGONALITY, AuxiliaryLosses, skew
from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.inject import initialize, set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.adapters.rank_allocation import RankAllocation
from lope_dist.config.baselines import AdaLoraConfig, AnyAdapterConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.model.auto_class import auto_class

PROMPTS = [name for name in BASELINES if name != "adalora"]
IDS = torch.arange(24).view(2, 12) % 60
TARGETS = ["q_proj", "v_proj"]


def config_of(name: str):
    adapter: TypeAdapter = TypeAdapter(AnyAdapterConfig)
    return adapter.validate_python(BASELINES[name])


def adapted(name: str, seed: int = 3, model=None):
    model = model or small_llama()
    config = config_of(name)
    return model, attach(model, config, targets=TARGETS, stream_of=lambda n: "decoder", seed=seed)


def trained(model):
    """Move every adapter parameter away from its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, role in model_roles(model).items():
            if role == Role.ADAPTER:
                parameter = model.get_parameter(name)
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("name", BASELINES)
def test_initial_values_are_a_function_of_the_seed(name: str) -> None:
    models = [adapted(name, seed)[0] for seed in (3, 3, 4)]
    roles = model_roles(models[0])
    assert set(roles.values()) == {Role.BASE, Role.ADAPTER}
    own, again, other = (
        torch.cat([m.get_parameter(n).flatten() for n, r in roles.items() if r == Role.ADAPTER])
        for m in models
    )
    assert own.dtype == torch.float32
    assert torch.equal(own, again)
    assert not torch.equal(own, other)
    trained(models[1])
    initialize(models[1])
    for parameter, first in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.equal(parameter, first)


@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_without_the_adapter_it_is_the_base_model(name: str) -> None:
    base = small_llama()(IDS).logits
    model, context = adapted(name)
    if name == "adalora":  # E is zero
        assert torch.equal(model(IDS).logits, base)
    trained(model)
    answer = model(IDS).logits
    assert answer.shape == base.shape
    assert not torch.equal(answer, base)
    with context.answering("none"):
        assert torch.equal(model(IDS).logits, base)
    with pytest.raises(LopeError, match=r"'masked'.*adapter\.num_poison is 0.*'all'"):
        context.answer_as("masked")


@pytest.mark.parametrize("name", PROMPTS)
@torch.no_grad()
def test_virtual_tokens_are_pefts(name: str) -> None:
    """The same values in peft's own model give the same logits, padding included."""
    model, _ = adapted(name)
    trained(model)
    config = config_of(name)
    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": config.num_virtual_tokens}
    if config.kind == "p_tuning":
        settings = peft.PromptEncoderConfig(
            encoder_reparameterization_type=config.encoder.upper(),
            encoder_hidden_size=config.encoder_hidden_size,
            **common,
        )
    else:
        settings = peft.PrefixTuningConfig(**common)
    oracle = peft.get_peft_model(small_llama(), settings).eval()
    oracle.prompt_encoder["default"].load_state_dict(model.prompt.encoder.state_dict())
    mask = torch.ones_like(IDS)
    mask[1, 8:] = 0
    wanted = oracle(input_ids=IDS, attention_mask=mask).logits[:, -IDS.shape[1] :]
    found = model(input_ids=IDS, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()])


def random(model_type: str, **changes):
    """Return a random model of a type in memory."""
    torch.manual_seed(0)
    arch = tiny_arch(model_type, **changes)
    return auto_class(arch, remote=False).from_config(arch, dtype=torch.float32).eval()


CALLED_OTHERWISE = ("gpt2", "falcon", "mpt", "llama4_text", "qwen2_vl")
"""Their decoders take positional arguments, keep no cache by default, or stand elsewhere."""


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        *((name, "llama") for name in BASELINES),
        *product(("p_tuning_mlp", "prefix_tuning"), CALLED_OTHERWISE),
    ],
)
@torch.no_grad()
def test_generation_sees_the_adapter_at_every_token(name: str, model_type: str) -> None:
    """With a cache and left padding it chooses what the whole forward pass chooses."""
    model = small_llama() if model_type == "llama" else random(model_type)
    base = model(input_ids=IDS).logits
    adapted(name, model=model)
    trained(model)
    assert not torch.equal(model(input_ids=IDS).logits, base)
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[1, :4] = mask[1, :4] = 0
    new = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0
    )
    for row, start in ((0, 0), (1, 4)):
        so_far = ids[row : row + 1, start:]
        for _ in range(4):
            best = model(input_ids=so_far).logits[:, -1].argmax(-1, keepdim=True)
            so_far = torch.cat([so_far, best], dim=1)
        assert torch.equal(new[row, start:], so_far[0])


@pytest.mark.parametrize("name", PROMPTS)
def test_an_encoder_decoder_takes_no_virtual_tokens(name: str) -> None:
    t5 = T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=30)
    )
    with pytest.raises(LopeError, match=r"\(T5For.*encoder-decoder"):
        adapted(name, model=t5)


@pytest.mark.parametrize(
    ("name", "model_type", "reason"),
    [
        ("prefix_tuning", "qwen3_5_text", "1 of its layers keep no keys"),
        ("prefix_tuning", "mamba2", "none of its layers is attention"),
        ("p_tuning", "mamba2", "none of its layers is attention"),
        ("p_tuning", "gemma3n_text", "read the tokens' ids"),
    ],
)
def test_what_a_models_structure_rules_out_is_told_without_weights(
    name: str, model_type: str, reason: str
) -> None:
    kind = config_of(name).kind
    with torch.device("meta"):
        model = random(model_type)
    with pytest.raises(LopeError, match=rf"'{kind}'.* {model_type} .*{reason}.*'adalora'"):
        adapted(name, model=model)


def test_dropout_is_that_of_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, context = adapted("adalora")
    trained(model).train()
    with pytest.raises(LopeError, match=r"token_keys\['decoder'\].*\(2, 12\).*adapter\.dropout=0"):
        model(IDS)
    keys = torch.arange(24, dtype=torch.int32).view(2, 12) * 7919
    context.begin_batch(BatchDescription({"decoder": keys}))
    both = model(IDS).logits
    assert not torch.equal(both, model.eval()(IDS).logits)
    model.train()
    context.begin_batch(BatchDescription({"decoder": keys[1:]}))
    torch.testing.assert_close(model(IDS[1:]).logits, both[1:])


def test_ranks_are_allocated_as_by_peft() -> None:
    """The same gradients and steps leave the same singular values, here and in peft's model."""
    config = AdaLoraConfig(target_rank=2, initial_rank=4, dropout=0.0, allocate_every_steps=2)
    steps = 12
    model = small_llama()
    attach(model, config, targets=TARGETS, stream_of=lambda n: "decoder", seed=3)
    trained(model)
    set_trainable(model, [Role.ADAPTER])
    names = [name for name, role in model_roles(model).items() if role == Role.ADAPTER]
    settings = peft_config(config, steps)
    settings.target_modules = TARGETS
    oracle = peft.tuners.adalora.AdaLoraModel(small_llama(), settings, "default")
    with torch.no_grad():
        for name in names:
            oracle.model.get_parameter(name).copy_(model.get_parameter(name))
    shapes = {name: model.get_parameter(name).shape for name in names}
    allocation = RankAllocation(config, shapes, steps)
    final = []
    for step in range(1, steps + 1):
        for each in (model, oracle.model):
            each.zero_grad()
            F.cross_entropy(each(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
        gradients = {name: model.get_parameter(name).grad.clone() for name in names}
        with torch.no_grad():
            for name in names:
                for each in (model, oracle.model):
                    each.get_parameter(name).sub_(each.get_parameter(name).grad, alpha=0.1)
        oracle.update_and_allocate(step)
        values = {name: model.get_parameter(name).detach().clone() for name in names}
        for name, value in allocation.after_step(values, gradients).items():
            model.get_parameter(name).data.copy_(value)
        for name in names:
            torch.testing.assert_close(
                model.get_parameter(name), oracle.model.get_parameter(name), msg=f"{step} {name}"
            )
        final.append(sum(int((model.get_parameter(n) != 0).sum()) for n in names if n.endswith(E)))
        # Whatever step it is resumed at, it goes on alike.
        resumed = RankAllocation(config, shapes, steps)
        assert resumed.load_state({**allocation.state(), "other": torch.ones(1)}).keys() == {
            "other"
        }
        allocation = resumed
    assert final[0] == 4 * 4
    assert final[-1] == 4 * 2
    assert len(set(final)) > 2


def test_the_regulariser_is_zero_for_orthogonal_directions_of_length_one() -> None:
    rows = torch.eye(6)[:3]
    assert skew(rows) == skew(rows.t()) == 0
    assert skew(2 * rows) == skew(2 * rows.t()) == pytest.approx((3 * 9) ** 0.5)


def test_the_regularisers_gradients_are_pefts() -> None:
    """Of two micro-batches of 8 and 16 tokens, to gradients that the engine scales by 3."""
    config = AdaLoraConfig(initial_rank=4, dropout=0.0, orthogonality=0.5)
    model = small_llama()
    context = attach(model, config, targets=TARGETS, stream_of=lambda n: "decoder", seed=3)
    trained(model).train()
    settings = peft_config(config, 10)
    settings.target_modules = TARGETS
    oracle = peft.tuners.adalora.AdaLoraModel(small_llama(), settings, "default").train()
    names = [name for name, role in model_roles(model).items() if role == Role.ADAPTER]
    with torch.no_grad():
        for name in names:
            oracle.model.get_parameter(name).copy_(model.get_parameter(name))
    oracle(input_ids=IDS, labels=IDS).loss.backward()

    auxiliary = AuxiliaryLosses({ORTHOGONALITY: 0.5}, {ORTHOGONALITY: num_matrices(model)})
    context.begin_stage(StageDescription(auxiliary=auxiliary))
    for ids in (IDS[:, :4], IDS[:, 4:]):
        auxiliary.begin(ids.numel(), IDS.numel(), gradient_scale=3.0)
        (model(ids).logits.sum() * 0.0).backward()
    own = {name: model.get_parameter(name).grad.clone() / 3 for name in names}
    context.begin_stage(StageDescription())
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name in names:
        found = own[name] + model.get_parameter(name).grad
        torch.testing.assert_close(found, oracle.model.get_parameter(name).grad, msg=name)
