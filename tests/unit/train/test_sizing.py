"""What a model's plan is computed from, and the command that prints it."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.train.premises.preflight import preflight
from lope_dist.train.premises.sizing import measure


def _plan(repository, recipe: str, *arguments: str) -> dict:
    path = str(repository / "configs" / "recipes" / f"{recipe}.yaml")
    result = CliRunner().invoke(app, ["plan", path, *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.thorough
def test_7b_on_80_gib_is_replicated(repository) -> None:
    plan = _plan(repository, "llama2_7b_alpaca", "--world-size", "8")
    assert plan["quantized_weights"] == 6_476_005_376
    assert plan["quantized_weights"] + plan["unquantized_weights"] == 6_738_415_616
    whole = 6_476_005_376 // 2 + 2 * (6_738_415_616 - 6_476_005_376)
    assert plan["zero2"]["base_weights"] == whole
    assert plan["adapter_parameters"] == 5_243_904
    assert plan["recommendation"]["zero_stage"] == 2


def test_70b_on_24_gib_is_sharded(repository) -> None:
    plan = _plan(
        repository, "llama2_70b_alpaca", "--world-size", "8", "--gpu-memory", "24GiB",
        "data.max_length=2048",
    )  # fmt: skip
    assert plan["quantized_weights"] + plan["unquantized_weights"] == 68_976_648_192
    assert plan["max_length"] == 2048
    assert plan["zero2"]["total"] > 24 << 30 > plan["zero3"]["load_peak"]
    assert plan["recommendation"]["zero_stage"] == 3
    answers = plan["evaluation"]
    assert answers["whole"] > 24 << 30 > answers["sharded"] > plan["zero3"]["base_weights"]
    assert answers["base"] == "sharded"
    assert answers["gather_s"] == pytest.approx(answers["wire"] / 300e9)


MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("recipe", "overrides", "parameters", "zero_stage"),
    [
        pytest.param("qwen3_30b_a3b", [], 30_532_122_624, 2, marks=pytest.mark.thorough),
        (
            "llama2_7b_alpaca",
            [
                "model.name_or_path=mistralai/Mixtral-8x7B-v0.1",
                f"model.architecture={json.dumps(MIXTRAL)}",
            ],
            46_702_792_704,
            3,
        ),
    ],
    ids=["qwen3", "mixtral"],
)
def test_experts_are_in_nf4(
    repository, recipe: str, overrides: list[str], parameters: int, zero_stage: int
) -> None:
    plan = _plan(repository, recipe, "--world-size", "8", "--gpu-memory", "24", *overrides)
    assert plan["nf4_share"] > 0.97
    assert plan["quantized_weights"] + plan["unquantized_weights"] == parameters
    assert plan["zero3"]["base_weights"] < 0.6 * parameters / 8
    assert plan["recommendation"]["zero_stage"] == zero_stage
    assert plan["activations_bound"] is None


@pytest.mark.thorough
def test_70b_on_four_nodes_that_hold_it_whole_receives_nothing(repository) -> None:
    plan = _plan(
        repository, "llama2_70b_alpaca", "--world-size", "32", "--gpu-memory", "80",
        "train.global_batch=32",
    )  # fmt: skip
    assert plan["gpu_memory"] == 80 << 30
    advice = plan["recommendation"]
    assert advice["zero_stage"] == 2
    speeds = [choice["speed"]["tokens_per_s"] for choice in advice["choices"]]
    assert speeds == sorted(speeds, reverse=True)
    assert {choice["zero_stage"] for choice in advice["choices"]} == {2, 3}


@pytest.mark.thorough
def test_experts_that_a_token_is_not_sent_to_take_no_time(repository) -> None:
    path = repository / "configs" / "recipes" / "qwen3_30b_a3b.yaml"
    config = load_config(path, [])
    sizes = measure(preflight(config).model, config)
    assert sizes.active == pytest.approx(3.0e9, rel=0.15)  # "A3B"
    assert sizes.active < sum(sizes.quantized) / 8


RECIPES = ("qwen2_7b_alpaca", "qwen1_5_14b_alpaca", "t5_large_alpaca")


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_backbone_can_be_planned(repository, recipe: str) -> None:
    plan = _plan(repository, recipe, "--world-size", "4")
    assert plan["recommendation"]["zero_stage"] == 2


def test_the_table_shows_both_stages_and_the_advice(repository) -> None:
    path = str(repository / "configs" / "recipes" / "llama2_70b_alpaca.yaml")
    ranks = ["--world-size", "8", "--gpu-memory", "24GiB"]
    text = CliRunner().invoke(app, ["plan", path, *ranks], catch_exceptions=False).stdout
    for expected in ("ZeRO-2 (replicate)", "ZeRO-3 (shard)", "base weights", "peak while loading"):
        assert expected in text
    assert re.search(r"Recommended: engine\.zero_stage=3 train\.micro_batch=\d+", text)
    assert re.search(r"Evaluation takes .+ GiB of each rank .*--base auto keeps it sharded", text)
    small = ["--world-size", "2", "--gpu-memory", "8GB"]
    result = CliRunner().invoke(app, ["plan", path, *small], catch_exceptions=False)
    assert result.exit_code == 1
    text = result.stdout
    assert "Does not fit." in text
    assert "What would help:" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world-size", "0"], "--world-size = 0"),
        (["--world-size", "2", "--gpu-memory", "much"], "--gpu-memory: 'much' "),
        (["--world-size", "2", "--node-memory", "1 Tb it"], "--node-memory"),
        (["--world-size", "2", "--ranks-per-node", "0"], "--ranks-per-node = 0"),
        (["--world-size", "2", "--network-gbs", "0"], "--network-gbs = 0"),
        (["--world-size", "2", "engine.offload=both"], "engine.offload = 'both' "),
    ],
)
def test_bad_input_is_one_sentence(repository, arguments: list[str], message: str) -> None:
    path = str(repository / "configs" / "recipes" / "llama2_7b_alpaca.yaml")
    with pytest.raises(LopeError, match=re.escape(message)):
        CliRunner().invoke(app, ["plan", path, *arguments], catch_exceptions=False)


def test_a_tied_embedding_is_needed_in_the_backward_pass(repository) -> None:
    path = repository / "configs" / "recipes" / "llama2_7b_alpaca.yaml"
    small = ["model.architecture.num_hidden_layers=1", "model.architecture.hidden_size=512"]
    untied = load_config(path, small)
    tied = load_config(path, [*small, "model.architecture.tie_word_embeddings=true"])
    assert measure(preflight(untied).model, untied).input_only == 32000 * 512
    assert measure(preflight(tied).model, tied).input_only == 0
