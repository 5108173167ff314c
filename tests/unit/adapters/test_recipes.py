"""Every shipped recipe: resolved, its model built on meta, adapted and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate import init_empty_weights
from support.quick import quick
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from lope_dist.config.data import DataConfig
from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.model.build import architecture
from lope_dist.train.premises.params import count_run

RECIPES = Path(__file__).resolve().parents[3] / "configs"
LLAMA2 = RECIPES / "recipes" / "llama2_7b_alpaca.yaml"


@pytest.mark.parametrize(
    ("recipe", "overrides", "percent"),
    [
        ("recipes/llama2_7b_alpaca", [], 0.062),
        ("recipes/llama2_7b_alpaca", ["adapter.rank=8"], 0.124),
        ("recipes/llama2_7b_alpaca", ["adapter.rank=2"], 0.031),
        ("recipes/llama2_7b_alpaca", ["adapter.num_normal=2"], 0.047),
        ("baselines/lora", [], 0.031),
        ("recipes/llama2_7b_alpaca", ["adapter.num_normal=1", "adapter.num_poison=0"], 0.031),
        ("baselines/lora", ["adapter.rank=2"], 0.016),  # the paper cuts it to 0.015
        ("baselines/hydralora", [], 0.062),
        ("baselines/hydralora", ["adapter.rank=2"], 0.031),
        ("baselines/hydralora", ["adapter.rank=8"], 0.124),
        ("baselines/hydralora_rank_router", [], 0.062),
        ("baselines/hydralora_hynoise", [], 0.062),
        ("baselines/hydralora_two_stages", [], 0.078),  # four experts; the paper has no such row
        ("baselines/adalora", [], 0.023),
        ("baselines/p_tuning", [], 0.193),
        ("baselines/prefix_tuning", [], 0.078),  # the paper cuts it to 0.077
    ],
)
def test_percentages_are_the_papers(recipe: str, overrides: list[str], percent: float) -> None:
    counts = count_run(load_config(RECIPES / f"{recipe}.yaml", overrides))
    assert counts["model_parameters"] == 6_738_415_616
    assert round(counts["percent_inference"], 3) == percent


@pytest.mark.parametrize(
    ("recipe", "parameters", "layers"),
    quick(
        [
            ("llama2_70b_alpaca", 68_976_648_192, 2 * 80),
            ("qwen2_7b_alpaca", 7_615_616_512, 2 * 28),
            ("qwen1_5_14b_alpaca", 14_167_290_880, 2 * 40),
            ("t5_large_alpaca", 737_668_096, 2 * (24 + 2 * 24)),
        ],
        ("t5_large_alpaca", 737_668_096, 2 * (24 + 2 * 24)),
    ),
)
def test_backbones_have_their_published_sizes(recipe: str, parameters: int, layers: int) -> None:
    counts = count_run(load_config(RECIPES / "recipes" / f"{recipe}.yaml"))
    assert counts["model_parameters"] == parameters
    assert counts["adapted_layers"] == layers


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("recipes/*_alpaca.yaml")), ids=lambda p: p.stem
)
def test_recipes_hold_the_papers_settings(path: Path) -> None:
    config = load_config(path)
    assert (config.seed, config.data.max_examples, config.data.path) == (
        614,
        5200,
        "tatsu-lab/alpaca",
    )
    assert (config.adapter.rank, config.adapter.num_normal, config.adapter.num_poison) == (4, 3, 1)
    assert (config.adapter.lora_alpha, config.adapter.dropout) == (32, 0.05)
    noise = config.noise
    assert (noise.text.rate, noise.embedding.alpha, noise.data.rate) == (0.05, 0.05, 0.05)
    assert {n: (s.lr, s.epochs, s.noise) for n, s in config.train.stages.items()} == {
        "poison": (2e-4, 1, "hybrid"),
        "finetune": (2e-4, 1, "none"),
    }


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    quick(
        [
            ("llama3_1_8b", 8_030_261_248),
            ("qwen3_8b", 8_190_735_360),
            ("qwen3_30b_a3b", 30_532_122_624),
            ("gemma3_12b", 12_187_325_040),
            ("mistral_small_3_2_24b", 24_011_361_280),
            ("phi4", 14_659_507_200),
        ],
        ("llama3_1_8b", 8_030_261_248),
    ),
)
def test_current_models_have_their_published_sizes(recipe: str, parameters: int) -> None:
    """As the hub counts the tensors of their files, vision parts included."""
    config = load_config(RECIPES / "recipes" / f"{recipe}.yaml")
    arch = architecture(config.model)
    is_text = arch.get_text_config() is arch
    auto = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    with init_empty_weights():
        model = auto.from_config(arch)
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == parameters
    counts = count_run(config)
    assert counts["model_parameters"] == parameters
    text = arch.get_text_config()
    assert counts["adapted_layers"] == text.num_hidden_layers * len(config.adapter.targets)
    assert counts["nf4_share"] > 0.99


@pytest.mark.parametrize(
    "path",
    sorted(path for path in RECIPES.glob("recipes/*.yaml") if "data_own" in path.read_text()),
    ids=lambda path: path.stem,
)
def test_a_recipe_for_ones_own_data_changes_none_of_it(path: Path) -> None:
    config = load_config(path)
    assert config.data == DataConfig(path="your_data.jsonl", template="chat", max_length=2048)
    assert config.noise.data.rate == 0
    routed = load_config(RECIPES / "recipes" / "llama2_7b_alpaca_routed.yaml")
    assert config.train.stages == routed.train.stages


def test_the_papers_data_are_in_no_layer_that_others_include() -> None:
    for path in RECIPES.glob("base/*.yaml"):
        tree = yaml.safe_load(path.read_text())
        assert "max_examples" not in tree.get("data", {})
        assert "data" not in tree.get("noise", {})


def test_honest_counts_stand_beside_the_papers() -> None:
    counts = count_run(load_config(LLAMA2))
    A, B, router = 64 * 4 * 4096, 64 * 4096 * 4, 64 * 4 * 4
    assert counts["by_role"] == {
        "shared_a": A,
        "normal_b": 3 * B,
        "poison_b": B,
        "router": router,
    }
    assert counts["adapter_parameters"] == A + 4 * B + router
    assert counts["trainable_by_stage"]["poison"]["total"] == A + B
    assert counts["trainable_by_stage"]["finetune"]["total"] == A + 3 * B + router


def test_baselines_have_one_stage_without_noise_or_poison() -> None:
    for name in ("lora", "hydralora"):
        stages = load_config(RECIPES / "baselines" / f"{name}.yaml").train.stages
        assert list(stages) == ["finetune"]
        assert stages["finetune"].noise == "none"


def test_every_baseline_is_counted_above_and_trains_on_the_recipes_data() -> None:
    recipe = load_config(LLAMA2)
    for path in (RECIPES / "baselines").glob("*.yaml"):
        config = load_config(path)
        data = recipe.data.model_copy(update={"packing": config.data.packing})
        assert (config.data, config.noise, config.seed) == (data, recipe.noise, recipe.seed)
        assert f'"baselines/{path.stem}"' in Path(__file__).read_text()
        for stage in config.train.stages.values():
            assert (stage.lr, stage.epochs) == (2e-4, 1)


def test_the_control_has_lopes_data_schedule() -> None:
    control = load_config(RECIPES / "baselines" / "hydralora_two_stages.yaml").train
    lope = load_config(LLAMA2).train
    for own, its in zip(control.stages.values(), lope.stages.values(), strict=True):
        assert own.noise == its.noise
        assert own.trainable == (Role.SHARED_A, Role.NORMAL_B, Role.ROUTER)


def test_default_stages_lose_what_the_adapter_has_not() -> None:
    config = load_config(LLAMA2, ["adapter.num_normal=1", "adapter.num_poison=0"])
    stages = config.train.stages
    assert {name: stage.trainable for name, stage in stages.items()} == {
        "finetune": (Role.SHARED_A, Role.NORMAL_B)
    }
    listed = "train.stages={poison: {trainable: [shared_a, poison_b]}}"
    with pytest.raises(LopeError, match=r"train\.stages\.poison.*'poison_b'"):
        load_config(LLAMA2, ["adapter.num_poison=0", listed])


def test_one_key_of_a_default_stage_can_be_overridden() -> None:
    stages = load_config(LLAMA2, ["train.stages.poison.lr=1e-4"]).train.stages
    assert stages["poison"].lr == 1e-4
    assert stages["poison"].trainable == (Role.SHARED_A, Role.POISON_B)
    assert stages["finetune"].lr == 2e-4
