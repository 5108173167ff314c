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
    assert "100.0%" in facts.sentence()


def test_without_quantization_nothing_is_in_nf4() -> None:
    facts = _facts("llama", SIZES, quantization="none")
    assert facts.share == 0.0
    assert "model.quantization = none" in facts.sentence()


def test_weights_that_would_stay_in_16_bits_end_the_run_with_their_names() -> None:
    facts = QuantizationFacts("nf4", 75, left={"a.layers.0.rel.q": 20, "a.layers.1.rel.q": 5})
    with pytest.raises(LopeError, match=r"75\.0% .* rel\.q \(25\) .* model\.skip_modules"):
        refuse_what_is_left(facts, "xlnet")


def test_what_skip_modules_keeps_is_counted_and_named() -> None:
    facts = _facts("llama", SIZES, skip_modules=("lm_head", "layers.1.mlp.down_proj", "self_attn"))
    assert not facts.left
    assert "model.layers.1.mlp.down_proj.weight" in facts.skipped
    assert facts.quantized == facts.counted - sum(facts.skipped.values())


def test_entries_of_skip_modules_that_name_nothing_are_refused() -> None:
    with pytest.raises(LopeError, match=r"'down_prj' .*down_proj"):
        _facts("llama", SIZES, skip_modules=("lm_head", "down_prj"))


def test_lm_head_is_the_head_whatever_its_name() -> None:
    sizes = {"vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 1}
    arch = sizes | {"num_attention_heads": 4, "intermediate_size": 128}
    assert _facts("gpt_neox", arch).exempt["head"] == 256 * 64
    quantized = _facts("gpt_neox", arch, skip_modules=())
    assert "head" not in quantized.exempt
    assert quantized.share == 1.0


BIG = {
    "mixtral": {  # mistralai/Mixtral-8x7B-v0.1
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
    },
    "qwen3_moe": {  # Qwen/Qwen3-30B-A3B
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
}


@pytest.mark.parametrize(("model_type", "total"), [("mixtral", 46.7e9), ("qwen3_moe", 30.5e9)])
def test_of_real_expert_models_over_97_percent_of_all_weights_are_in_nf4(
    model_type: str, total: float
) -> None:
    facts = _facts(model_type, BIG[model_type])
    everything = facts.counted + sum(facts.exempt.values())
    assert everything == pytest.approx(total, rel=0.01)
    assert facts.share == 1.0
    assert facts.quantized / everything > 0.97
    assert set(facts.exempt) == {"embeddings", "head", "routers"}


def test_routers_mixers_and_what_else_is_no_matrix_is_exempt_by_its_kind() -> None:
    jamba = SIZES | {"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
    jamba |= {"expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8}
    facts = _facts("jamba", jamba)
    assert facts.exempt["routers"] == 4 * 64  # an ordinary linear layer
    assert facts.exempt["convolutions"] == 128 * 4
    # A_log, and dt_proj, whose weight the mixer multiplies with itself
    assert facts.exempt["state-space parameters"] == 128 * 8 + 128 * 4
    shared = SIZES | {"num_experts": 4, "moe_intermediate_size": 64}
    facts = _facts("qwen2_moe", shared | {"shared_expert_intermediate_size": 64})
    assert facts.exempt["vectors"] == 2 * 64  # the shared expert's gate
    assert facts.share == 1.0


def test_a_model_that_multiplies_in_ways_of_its_own_is_refused_before_weights_are_read() -> None:
    sizes = {"vocab_size": 258, "d_model": 64, "n_layer": 1, "n_head": 4, "d_inner": 128}
    with pytest.raises(LopeError, match=r"4\d\.\d% .* xlnet .* rel_attn\.q"):
        _facts("xlnet", sizes, attention="eager")
    skipped = ("lm_head", "rel_attn")
    facts = _facts("xlnet", sizes, attention="eager", skip_modules=skipped)
    assert facts.skipped
    assert not facts.left
