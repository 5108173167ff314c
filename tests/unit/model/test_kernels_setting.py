"""`model.kernels`: Liger is asked for, taken where it is, or left alone."""

from __future__ import annotations

import pytest
from support.tiny import small_llama

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model import loss_head
from lope_dist.model.build import build_meta_model
from lope_dist.train.premises import head_sentence

SHAPE = small_llama().config


@pytest.mark.parametrize(
    ("kernels", "installed", "uses"),
    [("auto", True, True), ("auto", False, False), ("none", True, False)],
)
def test_liger_is_used_where_it_may(
    monkeypatch, tiny_config, kernels: str, installed: bool, uses: bool
) -> None:
    monkeypatch.setattr(loss_head, "_has_liger", lambda: installed)
    config = ModelConfig(name_or_path="x", kernels=kernels)  # type: ignore[arg-type]
    model = build_meta_model(config, SHAPE)
    head = loss_head.loss_head(model)
    assert head is not None
    assert head.uses_liger == uses
    assert ("Liger" in head_sentence(model, tiny_config())) == uses
    robust = {"train__stages__finetune__loss": {"kind": "generalized"}}
    told = head_sentence(model, tiny_config(**robust))
    assert told.endswith(", by Liger on a GPU in poison") == uses
    robust["train__stages__poison__loss"] = {"kind": "generalized"}
    assert "Liger" not in head_sentence(model, tiny_config(**robust))


def test_liger_that_cannot_run_is_an_error() -> None:
    with pytest.raises(LopeError, match=r"model\.kernels = 'liger' needs a CUDA device"):
        build_meta_model(ModelConfig(name_or_path="x", kernels="liger"), SHAPE)
