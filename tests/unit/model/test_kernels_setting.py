"""`model.kernels`: Liger is asked for, taken where it is, or left alone.

Liger's kernels do not run here. Where they go is looked at, and that a CPU goes around them. The
tests that need the package itself are skipped without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.tiny import small_llama
from transformers import AutoConfig

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model import kernels
from lope_dist.model import loss_head as head_module
from lope_dist.model.build import build_meta_model
from lope_dist.model.kernels import OnGpus, choose_kernels, fused_parts, kernels_sentence
from lope_dist.model.loss_head import LossHead, loss_head
from lope_dist.train.premises.table import head_sentence

SHAPE = small_llama().config
SMALL = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def built(setting: str, model_type: str = "llama", **shape: Any) -> Any:
    arch = AutoConfig.for_model(model_type, **(SMALL | shape))
    return build_meta_model(ModelConfig(name_or_path="x", kernels=setting), arch)  # type: ignore


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Liger itself, on a machine that says it could run it."""
    pytest.importorskip("liger_kernel")
    monkeypatch.setattr(kernels, "_liger_runs_here", lambda: True)
    yield
    choose_kernels(small_llama(), "none")  # what is changed for the process is changed back


@pytest.mark.parametrize(
    ("setting", "runs_here", "uses"),
    [("auto", True, True), ("auto", False, False), ("none", True, False)],
)
def test_the_heads_loss_is_ligers_where_it_may_be(
    monkeypatch, tiny_config, setting: str, runs_here: bool, uses: bool
) -> None:
    monkeypatch.setattr(kernels, "_liger_runs_here", lambda: runs_here)
    monkeypatch.setattr(head_module, "_has_liger", lambda: True)
    monkeypatch.setattr(kernels, "_fuse", lambda model: None)  # tried below
    model = built(setting)
    head = loss_head(model)
    assert head is not None
    assert head.uses_liger == uses
    assert kernels_sentence(model) == ("Liger's on a GPU: the head's loss" if uses else "PyTorch's")
    assert ("Liger" in head_sentence(model, tiny_config())) == uses
    robust = {"train__stages__finetune__loss": {"kind": "generalized"}}
    told = head_sentence(model, tiny_config(**robust))
    assert told.endswith(", by Liger in poison") == uses
    robust["train__stages__poison__loss"] = {"kind": "generalized"}
    assert "Liger" not in head_sentence(model, tiny_config(**robust))
    routing = {"gradient_routing": "detected", "strict_routing": True, "soft_routing": True}
    stage = tiny_config().train.stages["poison"].model_dump(mode="json") | routing
    told = head_sentence(model, tiny_config(train__stages__poison=stage))
    assert told.endswith(", by Liger in finetune") == uses
    assert "Liger" not in head_sentence(model, tiny_config(data__columns={"weight": "w"}))


def test_a_head_alone_takes_liger_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    head = LossHead(8, 16, False, torch.float32)
    for installed in (True, False):
        monkeypatch.setattr(head_module, "_has_liger", lambda installed=installed: installed)
        assert head.uses_liger == installed


def test_liger_that_cannot_run_is_an_error() -> None:
    with pytest.raises(LopeError, match=r"model\.kernels = 'liger' needs a CUDA device"):
        built("liger")


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    ("model_type", "parts"),
    [
        ("llama", {"LlamaRMSNorm": 5, "LlamaMLP": 2, "apply_rotary_pos_emb": 1}),
        ("qwen3", {"Qwen3RMSNorm": 9, "Qwen3MLP": 2, "apply_rotary_pos_emb": 1}),
        ("mixtral", {"MixtralRMSNorm": 5, "apply_rotary_pos_emb": 1}),  # experts are packed
    ],
)
def test_what_liger_changes_is_told_and_found_again(model_type: str, parts: dict[str, int]) -> None:
    model = built("liger", model_type)
    assert fused_parts(model) == parts
    assert all(part in kernels_sentence(model) for part in parts)
    assert kernels_sentence(built("none", model_type)) == "PyTorch's"


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_cpu_goes_around_what_liger_changed() -> None:
    ids = torch.arange(24).view(2, 12)
    model = small_llama()
    expected = model(ids).logits
    expected.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    changed = small_llama()
    choose_kernels(changed, "liger")
    assert fused_parts(changed)
    assert torch.equal(changed(ids).logits, expected)
    changed(ids).logits.square().sum().backward()
    assert all(torch.equal(p.grad, grads[name]) for name, p in changed.named_parameters())


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_family_that_liger_does_not_know_is_an_error_or_left_alone() -> None:
    shape = {"bos_token_id": 0, "eos_token_id": 0}
    assert fused_parts(built("auto", "gpt2", **shape)) == {}
    with pytest.raises(LopeError, match=r"gpt2.*'auto'"):
        built("liger", "gpt2", **shape)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_change_that_fails_half_way_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkey_patch = pytest.importorskip("liger_kernel.transformers.monkey_patch")
    whole = monkey_patch._apply_liger_kernel_to_instance

    def fails(**settings: Any) -> None:
        whole(**settings)
        raise AttributeError("no such layer")

    monkeypatch.setattr(monkey_patch, "_apply_liger_kernel_to_instance", fails)
    assert fused_parts(built("auto")) == {}
    with pytest.raises(LopeError, match=r"llama.*\(AttributeError"):
        built("liger")


def test_the_first_tensors_device_decides() -> None:
    both = OnGpus(lambda *args, **kwargs: "fused", lambda *args, **kwargs: "plain")
    assert both(1.0, torch.ones(1)) == both(x=torch.ones(1, device="meta")) == both() == "plain"
