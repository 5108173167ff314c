"""`adapter.init_from`: a run begins with another one's adapter, and says with which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.quick import quick
from support.tiny import save_alpaca, save_tiny_llama

from lope_dist.config.load import validate_config
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.core.side_files import METRICS
from lope_dist.train.check import check_run
from lope_dist.train.checkpoint.recorded import load_recorded
from lope_dist.train.repeat import begun_alike, repeat
from lope_dist.train.session import train

END = "checkpoints/2-finetune"
SHORT: dict[str, Any] = {
    "train__stages__poison__max_steps": 3,
    "train__stages__finetune__max_steps": 2,
    "train__checkpoint": {"every_steps": 1, "keep_last": 9},
}


@pytest.fixture(scope="module")
def source(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the tests may harm."""
    return Path(shutil.copytree(trained.folder, tmp_path_factory.mktemp("source") / "run"))


@pytest.fixture(scope="module")
def settings(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rows = tmp_path_factory.mktemp("other") / "rows.jsonl"
    save_alpaca(rows, 24)
    return SHORT | {"data__path": str(rows), "adapter__init_from": str(source)}


@pytest.fixture(scope="module")
def config(config_in, settings, tmp_path_factory: pytest.TempPathFactory):
    return config_in(tmp_path_factory.mktemp("begun") / "run", **settings)


@pytest.fixture(scope="module")
def begun(config) -> Path:
    return train(config)


@pytest.fixture(params=quick(["gone", "another adapter"], "another adapter"))
def changed(request, source: Path):
    """Take the source run's last checkpoint away for a test, or put another one there."""
    end, away = source / END, source / "away"
    end.rename(away)
    if request.param != "gone":
        shutil.copytree(source / "checkpoints/1-poison", end)
    yield
    shutil.rmtree(end, ignore_errors=True)
    away.rename(end)


def steps(run: Path) -> list[dict[str, Any]]:
    kept = ("stage", "step", "loss", "drift")
    return [{k: line.get(k) for k in kept} for line in METRICS.read(run)]


def test_it_begins_with_the_other_runs_adapter_and_says_so(
    begun: Path, source: Path, settings
) -> None:
    before = load_file(source / END / "adapter.safetensors")
    after = load_file(begun / "checkpoints/1-poison/adapter.safetensors")
    normal = [name for name in before if ".B.normal" in name]
    assert normal, "stage 1 leaves them as they were"
    assert all(torch.equal(after[name], before[name]) for name in normal)
    a_names = [name for name in before if name.endswith(".lope.A")]
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in a_names])
    told = [line["drift"] for line in steps(begun) if line["stage"] == "poison"]
    assert told[-1]["shared_a"] == pytest.approx(float(moved.mean()), rel=1e-4)
    wanted = {
        "checkpoint": str(source / END),
        "sha256": read_json(source / END / "adapter.json")["sha256"],
    }
    (start,) = read_json(begun / "manifest.json")["starts"]
    assert start["init_from"] == wanted
    assert wanted["sha256"][:12] in start["premises"]["init_from"]
    assert read_json(begun / END / "state.json")["init_from"] == wanted


def rewound(begun: Path, folder: Path) -> Path:
    """Return a copy of the run that was killed after the first step of its first stage."""
    copy = Path(shutil.copytree(begun, folder / "copy"))
    for path in (copy / "checkpoints").iterdir():
        if path.name != "1-poison-step-000001":
            shutil.rmtree(path)
    return copy


def test_a_resume_in_the_first_stage_ends_the_same_way(begun: Path, config, tmp_path) -> None:
    copy = rewound(begun, tmp_path)
    train(config.model_copy(update={"output_dir": str(copy)}), resume=True)
    assert steps(copy) == steps(begun), "drift too: where the stage began is found again"
    name = f"{END}/adapter.safetensors"
    assert (copy / name).read_bytes() == (begun / name).read_bytes()


def test_a_resume_does_without_the_other_run(
    begun: Path, config, changed, tmp_path, capsys
) -> None:
    copy = rewound(begun, tmp_path)
    train(config.model_copy(update={"output_dir": str(copy)}), resume=True)
    assert "The drift of stage 'poison' is not logged any more" in capsys.readouterr().err
    name = f"{END}/adapter.safetensors"
    assert (copy / name).read_bytes() == (begun / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adapter__rank": 2}, r"adapter\.rank: 4 -> 2"),
        ({"adapter__lora_alpha": 8}, r"adapter\.lora_alpha: 32\.0 -> 8\.0"),
        ({"adapter__num_normal": 2}, r"adapter\.num_normal: 3 -> 2"),
        ({"adapter__targets": ["q_proj"]}, r"another shape \(\d+ tensors, first .*v_proj.*nothing"),
        ({"adapter__init_checkpoint": "best"}, r"train\.keep_best"),
        ({"adapter__init_from": "nowhere"}, r"'nowhere' "),
    ],
)
def test_another_adapter_is_refused_before_the_folder_is_taken(
    tiny_config, settings, tmp_path: Path, changes, sentence: str
) -> None:
    config = tiny_config(**settings | changes)
    with pytest.raises(LopeError, match=rf"^adapter\.init_from: .*{sentence}"):
        train(config)
    assert not (tmp_path / "run" / "run.yaml").exists()
    with pytest.raises(LopeError, match=sentence):
        check_run(config, has_data=True, reads_rows=False)


def test_another_kind_is_refused(config, source: Path) -> None:
    tree = config.model_dump(mode="json")
    tree["adapter"] = {"kind": "adalora", "init_from": str(source)}
    del tree["train"]["stages"]
    with pytest.raises(LopeError, match=r"^adapter\.init_from: .*kind: 'lope' -> 'adalora'\);"):
        check_run(validate_config(tree, "test"), has_data=True, reads_rows=False)


def test_another_base_model_is_refused(tiny_config, settings, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "model", seed=1)
    config = tiny_config(**settings, model__name_or_path=str(tmp_path / "model"))
    with pytest.raises(LopeError, match=r"\(base weights differ\)"):
        train(config)


def test_a_damaged_checkpoint_is_refused(tiny_config, settings, source: Path, tmp_path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    weights = copy / END / "adapter.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LopeError, match=r"^adapter\.init_from: .*2-finetune "):
        train(tiny_config(**settings | {"adapter__init_from": str(copy)}))


def test_a_checkpoint_without_a_run_has_no_effect(tiny_config) -> None:
    with pytest.raises(LopeError, match="init_from"):
        tiny_config(adapter__init_checkpoint="best")


def test_run_yaml_says_what_was_asked_for(begun: Path, source: Path) -> None:
    described = json.loads((begun / END / "adapter.json").read_text())["adapter"]
    assert (described["init_from"], described["init_checkpoint"]) == (str(source), "last")


def test_a_repeat_begins_with_the_very_checkpoint_or_says_that_it_is_gone(
    begun: Path, source: Path
) -> None:
    starts = read_json(begun / "manifest.json")["starts"]
    adapter = begun_alike(load_recorded(begun / "run.yaml"), starts).adapter
    assert (adapter.init_from, adapter.init_checkpoint) == (str(source), "2-finetune")
    path = source / END / "adapter.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(LopeError, match="cannot be read again"):
            repeat(begun, 1, 1, 60)
    finally:
        path.write_bytes(content)
