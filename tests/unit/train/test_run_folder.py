import json
import os
import shutil
from pathlib import Path

import pytest

from lope_dist.config.load import load_config
from lope_dist.core import side_files
from lope_dist.core.errors import LopeError, NewerFormat
from lope_dist.train.checkpoint.folder import read_state
from lope_dist.train.checkpoint.history import newest_checkpoint
from lope_dist.train.checkpoint.integrity import MANIFEST, seal
from lope_dist.train.checkpoint.method import describe_difference, method_differences
from lope_dist.train.checkpoint.progress import RunProgress
from lope_dist.train.run.folder import open_run_folder


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


def test_a_run_that_was_refused_before_its_first_step_can_be_mended(tiny_config) -> None:
    folder = Path(tiny_config().output_dir)
    open_run_folder(tiny_config(), resume=False)
    start = {"starts": [{"status": "failed"}]}
    (folder / "manifest.json").write_text(json.dumps(start))
    other = tiny_config(seed=1)
    for resume in (False, True, "auto"):
        assert open_run_folder(other, resume) is None
        assert load_config(folder / "run.yaml").seed == 1
    line = {"stage": "poison", "step": 0, "loss": 1.0, "tokens": 5, "time": 0.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(LopeError, match="holds a run already; add --resume"):
        open_run_folder(tiny_config(), resume=False)
    with pytest.raises(LopeError, match="seed: 1 -> 614"):
        open_run_folder(tiny_config(), resume=True)


def test_checkpoints_without_a_configuration_are_not_ours(tiny_config) -> None:
    config = tiny_config()
    (Path(config.output_dir) / "checkpoints" / "1-poison").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(LopeError, match=r"run\.yaml"):
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
    open_run_folder(tiny_config(data__packing=True), resume=False)
    with pytest.raises(LopeError) as caught:
        open_run_folder(tiny_config(**{"data__packing": True, key: value}), resume=True)
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


def test_what_validation_decides_may_not_change_and_the_rest_may(tiny_config) -> None:
    valid = {"data__validation": {"share": 0.2}}
    kept = valid | {"train__evaluate": {"every_steps": 2}, "train__keep_best": "masked"}
    other = valid | {"train__evaluate": {"every_steps": 3}, "train__keep_best": "all"}
    open_run_folder(tiny_config(**kept), resume=False)
    for config in (tiny_config(**other), tiny_config(**valid)):
        assert open_run_folder(config, resume=True) is None
    stopping = {"train__early_stopping": {"patience": 2}}
    folder = Path(tiny_config().output_dir).with_name("stopping")
    open_run_folder(tiny_config(**kept, **stopping, output_dir=str(folder)), resume=False)
    for key, told in (("keep_best", "'masked' -> 'all'"), ("evaluate", "every_steps: 2 -> 3")):
        changed = kept | stopping | {f"train__{key}": other[f"train__{key}"]}
        with pytest.raises(LopeError, match=rf"train\.{key}.*{told}"):
            open_run_folder(tiny_config(**changed, output_dir=str(folder)), resume=True)
    keeping = (kept, kept | {"train__keep_best": "all"})
    trees = (tiny_config(**each, **stopping) for each in keeping)
    once, now = (tree.model_dump(mode="json") for tree in trees)
    assert not method_differences(once, now, of_checkpoint=True), "a resume could once change it"


@pytest.mark.parametrize("content", ["", "- a list\n", "seed: [1\n"])
def test_a_damaged_configuration_is_told(tiny_config, content: str) -> None:
    config = tiny_config()
    open_run_folder(config, resume=False)
    (Path(config.output_dir) / "run.yaml").write_text(content)
    with pytest.raises(LopeError, match=r"run\.yaml"):
        open_run_folder(config, resume=True)


def test_an_output_folder_that_cannot_be_made_is_told(tiny_config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LopeError, match=r"output_dir.*file/run"):
        open_run_folder(tiny_config(output_dir=str(tmp_path / "file" / "run")), resume=False)


def test_differences_name_the_key_and_both_values() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None, "gone": 3}
    now = {"a": {"b": 2, "c": [1, 2]}, "e": "new", "gone": 3}
    assert describe_difference(before, now) == ["a.b: 1 -> 2", "e: None -> 'new'"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "manifest.json", "results.json", "losses"])
def test_a_folder_with_files_of_another_is_refused_and_left_alone(tiny_config, name: str) -> None:
    config = tiny_config()
    folder = Path(config.output_dir)
    folder.mkdir()
    (folder / name).write_text("mine")
    for resume in (False, True, "auto"):
        with pytest.raises(LopeError, match=rf"{name} and no run\.yaml\. "):
            open_run_folder(config, resume)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]


def copy_of(trained, tmp_path: Path):
    folder = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
    return folder, trained.config.model_copy(update={"output_dir": str(folder)})


@pytest.mark.parametrize(
    "content", [b"", b"- a list\n", b"seed: [1\n", b"data: [1]\n", b"\xff\0", None]
)
def test_a_lost_configuration_is_taken_from_a_checkpoint(
    trained, tmp_path: Path, content: bytes | None, capsys
) -> None:
    folder, config = copy_of(trained, tmp_path)
    (folder / "run.yaml").unlink()
    if content is not None:
        (folder / "run.yaml").write_bytes(content)
    with pytest.raises(LopeError):
        open_run_folder(config.model_copy(update={"seed": 7}), resume=True)
    last = open_run_folder(config, resume=True)
    assert last is not None
    assert last.stage == "finetune"
    assert load_config(folder / "run.yaml") == config
    assert "was taken from" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "manifest.json", "state.json", "router.json"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_put_aside(trained, tmp_path: Path, make, name: str, capsys) -> None:
    folder, config = copy_of(trained, tmp_path)
    (folder / name).unlink()
    make(folder / name)
    assert open_run_folder(config, resume=True) is not None
    for file in (side_files.METRICS, side_files.MANIFEST):  # as the run does a little later
        file.recover(folder)
    assert not (folder / name).exists()
    assert (folder / f"{name}.damaged-1").exists()
    assert "no regular file" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["MANIFEST.json", "state.json", "adapter.json"])
def test_a_checkpoint_of_a_newer_version_is_refused(trained, tmp_path: Path, file: str) -> None:
    folder, config = copy_of(trained, tmp_path)
    newest = folder / "checkpoints" / "2-finetune"
    _change(newest / file, lambda tree: tree | {"format": tree["format"] + 1})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for resume in (True, "auto"):
        with pytest.raises(NewerFormat, match="written by a newer version of lope_dist"):
            open_run_folder(config, resume)
    with pytest.raises(NewerFormat):
        newest_checkpoint(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_of_a_newer_version_is_refused(trained, tmp_path: Path) -> None:
    folder, config = copy_of(trained, tmp_path)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for resume in (True, "auto"):
        with pytest.raises(NewerFormat, match=r"manifest\.json .*format 2, "):
            open_run_folder(config, resume)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_an_older_version_is_read(trained, tmp_path: Path, capsys) -> None:
    folder, config = copy_of(trained, tmp_path)

    def without_what_came_later(tree: dict) -> dict:
        later = ("poison_weight", "cost", "written_by", "validation")
        return {key: value for key, value in tree.items() if key not in later}

    newest = folder / "checkpoints" / "2-finetune"
    _change(newest / "state.json", without_what_came_later)
    last = open_run_folder(config, resume=True)
    assert last is not None
    assert last.folder == newest
    progress = RunProgress.from_state(read_state(last), is_end=True)
    assert (progress.index, progress.cost) == (3, {})
    assert capsys.readouterr().err == ""


def _change(path: Path, change) -> None:
    """Change a file of a checkpoint and seal the folder again."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    if path.name != MANIFEST:
        (path.parent / MANIFEST).unlink()
        seal(path.parent)
