from typing import Any

import pytest
from transformers import AutoConfig

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import build_meta_model
from lope_dist.model.quantization import QuantizationFacts, quantization_of, refuse_what_is_left

SIZES = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _facts(model_type: str, arch: dict[str, Any], **settings: Any) -> QuantizationFacts:
    config = ModelConfig(name_or_path="x", **settings)
    return quantization_of(
        build_meta_model(config, AutoConfig.for_model(model_type, **arch)), config
    )


def test_a_dense_model_is_all_in_nf4_but_for_embeddings_and_head() -> None:
    facts = _facts("llama", SIZES)
    assert facts.share == 1.0
    assert facts.exempt == {"embeddings": 258 * 64, "head": 258 * 64}
    assert facts.as_json()["nf4_share"] == 1.0
    assert "100.0% of the weights are in NF4" in facts.sentence()


def test_without_quantization_nothing_is_in_nf4() -> None:
    facts = _facts("llama", SIZES, quantization="none")
    assert facts.share == 0.0
    assert facts.sentence() == "No weight is quantized (model.quantization = none)."


def test_weights_that_would_stay_in_16_bits_end_the_run_with_their_names() -> None:
    facts = QuantizationFacts("nf4", 75, left={"a.layers.0.rel.q": 20, "a.layers.1.rel.q": 5})
    with pytest.raises(LopeError, match=r"75\.0% .* rel\.q \(25\) .* model\.skip_modules"):
        refuse_what_is_left(facts, "xlnet")


def test_what_skip_modules_keeps_is_counted_and_named() -> None:
    facts = _facts("llama", SIZES, skip_modules=("lm_head", "layers.1.mlp.down_proj", "self_attn"))
    assert not facts.left
    assert "model.layers.1.mlp.down_proj.weight" in facts.skipped
    assert facts.quantized == facts.counted - sum(facts.skipped.values())
