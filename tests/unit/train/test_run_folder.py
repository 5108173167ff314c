from pathlib import Path

import pytest

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.train.method import describe_difference
from lope_dist.train.run_folder import open_run_folder


def test_a_free_folder_is_claimed_with_the_resolved_configuration(tiny_config) -> None:
    config = tiny_config()
    assert open_run_folder(config, resume=False) is None
    assert load_config(Path(config.output_dir) / "run.yaml") == config


def test_a_taken_folder_is_refused_and_left_alone(tiny_config) -> None:
    open_run_folder(tiny_config(), resume=False)
    other = tiny_config(seed=1)
    with pytest.raises(LopeError, match="holds a run already; add --resume"):
        open_run_folder(other, resume=False)
    assert load_config(Path(other.output_dir) / "run.yaml").seed == 614


def test_checkpoints_without_a_configuration_are_not_ours(tiny_config) -> None:
    config = tiny_config()
    (Path(config.output_dir) / "checkpoints" / "1-poison").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(LopeError, match="not a run of ours"):
            open_run_folder(config, resume)


def test_a_folder_with_other_files_can_be_claimed(tiny_config) -> None:
    """The demo writes its corpus into the run's folder before it trains."""
    config = tiny_config()
    (Path(config.output_dir) / "data").mkdir(parents=True)
    assert open_run_folder(config, resume=True) is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", 7, "seed: 614 -> 7"),
        ("adapter__rank", 8, "adapter.rank: 4 -> 8"),
        ("train__global_batch", 16, "train.global_batch: 8 -> 16"),
        ("train__stages__finetune__lr", 0.5, "train.stages.finetune.lr: 0.01 -> 0.5"),
        ("noise__text__rate", 0.5, "noise.text.rate: 0.05 -> 0.5"),
        ("data__packing", False, "data.packing: True -> False"),
        ("model__dtype", "bfloat16", "model.dtype: 'float32' -> 'bfloat16'"),
    ],
)
def test_a_resume_that_would_change_the_result_is_refused(
    tiny_config, key: str, value: object, told: str
) -> None:
    open_run_folder(tiny_config(), resume=False)
    with pytest.raises(LopeError) as caught:
        open_run_folder(tiny_config(**{key: value}), resume=True)
    assert f"({told})" in str(caught.value)


def test_a_resume_may_change_the_engine_and_the_folders_spelling(tiny_config) -> None:
    config = tiny_config()
    open_run_folder(config, resume=False)
    changed = tiny_config(
        engine__kind="deepspeed",
        engine__zero_stage=2,
        engine__timeout_s=5,
        output_dir=f"{config.output_dir}/../run",
    )
    assert open_run_folder(changed, resume=True) is None


@pytest.mark.parametrize("content", ["", "- a list\n", "seed: [1\n"])
def test_a_damaged_configuration_is_told(tiny_config, content: str) -> None:
    config = tiny_config()
    open_run_folder(config, resume=False)
    (Path(config.output_dir) / "run.yaml").write_text(content)
    with pytest.raises(LopeError, match=r"run\.yaml is not the configuration of a run"):
        open_run_folder(config, resume=True)


def test_an_output_folder_that_cannot_be_made_is_told(tiny_config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LopeError, match=r"output_dir.*file/run.*cannot be written"):
        open_run_folder(tiny_config(output_dir=str(tmp_path / "file" / "run")), resume=False)


def test_differences_name_the_key_and_both_values() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None, "gone": 3}
    now = {"a": {"b": 2, "c": [1, 2]}, "e": "new", "gone": 3}
    assert describe_difference(before, now) == ["a.b: 1 -> 2", "e: None -> 'new'"]
