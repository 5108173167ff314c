import subprocess
import sys
import time
from pathlib import Path

import pytest

from lope_dist.config.explain import all_keys
from lope_dist.config.load import (
    dump_config,
    load_config,
    load_section,
    split_resume,
    validate_config,
)
from lope_dist.config.other_names import ADVICE, KEYS
from lope_dist.config.schema import RunConfig
from lope_dist.config.suite import SuiteConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError

RECIPE = """
output_dir: runs/x
model: {name_or_path: some/model}
data: {path: data.jsonl}
train:
  stages:
    poison: {noise: hybrid, trainable: [shared_a, poison_b]}
    finetune: {trainable: [shared_a, normal_b, router]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_overrides_win_and_exponents_are_numbers(recipe: Path) -> None:
    config = load_config(recipe, ["train.stages.poison.lr=1e-4", "adapter.targets=[q_proj]"])
    assert config.train.stages["poison"].lr == 1e-4
    assert config.adapter.targets == ("q_proj",)
    assert config.train.stages["finetune"].lr == 2e-4


def test_dump_is_read_back_as_the_same_config(recipe: Path, tmp_path: Path) -> None:
    config = load_config(
        recipe, ["adapter.compensation.mode=constant", "adapter.compensation.beta=2"]
    )
    resolved = tmp_path / "run.yaml"
    resolved.write_text(dump_config(config))
    assert load_config(resolved) == config


def test_later_layers_win(recipe: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("include: recipe.yaml\nseed: 7\nadapter: {rank: 8}\n")
    config = load_config(child)
    assert (config.seed, config.adapter.rank, config.output_dir) == (7, 8, "runs/x")


def test_layers_that_include_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(LopeError, match="circle"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("adapter.rnk=4", ["'rnk' in adapter", "Did you mean 'rank'"]),
        ("rank=4", ["'rank'", "Did you mean 'adapter.rank'"]),
        ("train.stages.poison.lrr=1", ["train.stages.poison", "Did you mean 'lr'"]),
        ("adapter.kind=adalra", ["adapter.kind = 'adalra'", "'lope', 'adalora'", "mean 'adalora'"]),
        ("adapter={kind: adalora, rank: 4}", ["Unknown key 'rank' in adapter.", "target_rank"]),
        (
            "adapter={kind: adalora, target_rank: 4}",
            ["adapter: initial_rank = 3 leaves nothing to prune to target_rank = 4"],
        ),
        ("adapter={kind: p_tuning, encoder: rnn}", ["adapter.encoder = 'rnn'", "'lstm' or 'mlp'"]),
        ("adapter.rank=0", ["adapter.rank = 0", "the least is 1"]),
        ("adapter.rank=many", ["adapter.rank = 'many'", "whole number"]),
        ("adapter.num_normal=0", ["adapter.num_normal = 0", "at least one"]),
        ("adapter.num_poison=0", ["train.stages.poison", "poison_b", "num_poison is 0"]),
        (
            "adapter.compensation={mode: unit, top_k: 4}",
            ["top_k = 4", "num_normal = 3"],
        ),
        ("adapter.compensation.top_k=2", ["top_k = 2", "no effect", "mode = none"]),
        ("adapter.compensation.mode=constant", ["beta", "constant"]),
        ("adapter.router=rnk", ["adapter.router = 'rnk'", "'rank' or 'input'", "mean 'rank'"]),
        ("engine.zero_stage=1", ["engine.zero_stage = 1", "2 or 3"]),
        ("train.stages.poison.trainable=[base]", ["never trained", "shared_a"]),
        ("train.stages.poison.groups.router.lr=1", ["no effect", "trainable"]),
        ("train.stages.poison.groups={x: null}", ["groups.x = 'x' is not allowed", "no section"]),
        ("noise.text.unit=example", ["noise.text", "strength = None", "must be given"]),
        ("noise.data.strength=0.5", ["noise.data", "unit = 'word'", "with no other"]),
        ("adapter.targets=q_proj", ["adapter.targets = 'q_proj'", "write [q_proj]"]),
        ("train.stages.fintune.lr=1e-3", ["no stage 'fintune'", "mean 'finetune'"]),
        ("train.learning_rate=1e-3", ["'learning_rate' in train", "train.stages.STAGE.lr"]),
        ("bf16=true", ["'bf16'", "model.dtype"]),
        ("noise.text.rate=1.5", ["noise.text.rate = 1.5", "the most is 1"]),
        ("just_a_word", ["key.subkey=value"]),
        ("data=null", ["data"]),
    ],
)
def test_bad_settings_are_told_in_a_sentence(recipe: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(LopeError) as caught:
        load_config(recipe, [override])
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "a: \xff"])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LopeError, match=r"bad\.yaml"):
        load_config(path)


def test_absent_file_is_named() -> None:
    with pytest.raises(LopeError, match="nowhere"):
        load_config("nowhere.yaml")


def test_misspelt_key_ends_the_command_fast_and_without_traceback(recipe: Path) -> None:
    command = [str(Path(sys.executable).with_name("lope")), "train", str(recipe), "adapter.rnk=4"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    print(f"took {time.perf_counter() - start:.2f} s")
    assert done.returncode == 2
    assert "rnk" in done.stderr
    assert "'rank'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_reading_a_config_imports_no_torch(recipe: Path) -> None:
    code = (
        "import sys; from lope_dist.config.load import load_config; import lope_dist.cli;"
        f"load_config({str(recipe)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("resume", "given", "expected"),
    [
        (False, ["seed=1"], (False, ["seed=1"])),
        (True, ["seed=1"], (True, ["seed=1"])),
        (True, ["auto", "seed=1"], ("auto", ["seed=1"])),
        (True, [], (True, [])),
        (False, ["auto"], (False, ["auto"])),  # which is then refused as an override
    ],
)
def test_the_word_behind_resume_is_no_override(resume, given, expected) -> None:
    assert split_resume(resume, given) == expected


def test_a_stages_name_cannot_look_like_a_checkpoint_in_its_middle() -> None:
    with pytest.raises(LopeError, match=r"train\.stages.*'a-step-000004'"):
        validate_config(
            {
                "output_dir": "x",
                "model": {"name_or_path": "x"},
                "data": {"path": "x"},
                "train": {"stages": {"a-step-000004": {"trainable": ["shared_a"]}}},
            },
            "test",
        )


def test_every_name_of_another_tool_points_to_a_key() -> None:
    keys = {*all_keys(RunConfig), *(f"train.stages.STAGE.{key}" for key in all_keys(StageConfig))}
    assert {*KEYS.values()} <= keys
    assert not {*KEYS} & {*ADVICE}


def test_a_stage_can_be_made_by_overrides(recipe: Path) -> None:
    new = ["train.stages.warm.lr=1e-4", "train.stages.warm.trainable=[shared_a]"]
    assert load_config(recipe, new).train.stages["warm"].lr == 1e-4


def test_a_file_of_another_kind_is_told(recipe: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("seeds: [1]\nrecipe: a.yaml\nvariants: {}\n")
    with pytest.raises(LopeError, match=r"study\.yaml .*`lope study run"):
        load_config(study)
    with pytest.raises(LopeError, match=r"recipe\.yaml .*`lope train "):
        load_section(SuiteConfig, recipe)


def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("seed: 1\nmodel: [1\ntrain: {}\n")
    with pytest.raises(LopeError, match=r"broken\.yaml .*line 3, column 6"):
        load_config(broken)
