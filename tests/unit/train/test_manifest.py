"""What a run writes down of itself, and that a repeat is held against it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import MANIFEST
from lope_dist.train.repeat import _differences, repeat
from lope_dist.train.run.manifest import note, redact
from lope_dist.train.session import train

SECRET = "s3cr3tv4lue"


@pytest.fixture(scope="module")
def made(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_in(
        tmp_path_factory.mktemp("made") / "run",
        train__stages__poison__max_steps=3,
        train__stages__finetune__max_steps=3,
        train__log_every_steps=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", f"hf_{SECRET}")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("NCCL_MADE_UP", SECRET)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return train(config)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return shutil.copytree(made, tmp_path / "run")


def test_a_run_is_written_down(run: Path) -> None:
    manifest = json.loads((run / MANIFEST.name).read_text())
    (start,) = manifest["starts"]
    assert start["status"] == "finished"
    assert start["started"] <= start["ended"]
    assert [rank["rank"] for rank in start["ranks"]] == [0]
    assert start["packages"]["torch"]
    assert start["premises"]["kernels"] == "PyTorch's"
    assert start["code"]["version"]
    assert manifest["seed"] == 614
    assert all(len(value) >= 12 for value in manifest["fingerprints"].values())
    assert {*manifest["fingerprints"]} == {"base weights", "architecture", "tokenizer", "data"}
    assert manifest["stages"]["finetune"]["steps"] == 3
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert manifest["stages"]["finetune"]["loss"] == last["loss"]


def test_no_secret_of_the_environment_is_in_any_file_of_a_run(run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
    assert json.loads((run / MANIFEST.name).read_text())["starts"][0]["environment"].keys() >= {
        "CUDA_VISIBLE_DEVICES"
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"{", None])
def test_a_manifest_that_is_damaged_while_a_run_trains_costs_nothing(
    content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / MANIFEST.name).write_bytes(content)
    start = {"status": "running"}
    note(tmp_path, start, premises=["x"])
    assert start == {"status": "running", "premises": ["x"]}


def test_credentials_leave_urls() -> None:
    text = "train data.path=https://me:pa55@host/x model.name_or_path=a@b"
    assert redact(text) == "train data.path=https://***@host/x model.name_or_path=a@b"


def test_a_failure_and_a_killed_start_are_told_apart(
    run: Path, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((run / MANIFEST.name).read_text())
    manifest["starts"][0] |= {"status": "running", "ended": None}  # as `kill -9` leaves it
    (run / MANIFEST.name).write_text(json.dumps(manifest))
    shutil.rmtree(run / "checkpoints" / "2-finetune")

    def broken(*_, **__):
        raise LopeError("The disk is gone.")

    monkeypatch.setattr("lope_dist.train.stage.stage.run_stage", broken)
    config = tiny_config(
        train__stages__poison__max_steps=3,
        train__stages__finetune__max_steps=3,
    )
    with pytest.raises(LopeError, match="The disk is gone"):
        train(config, resume=True)
    first, second = json.loads((run / MANIFEST.name).read_text())["starts"]
    assert (first["status"], second["status"]) == ("interrupted", "failed")
    assert second["reason"] == "The disk is gone."


@pytest.mark.thorough
@pytest.mark.parametrize("stages", [["finetune"], ["poison", "finetune"]])
def test_a_repeat_notices_one_loss_that_differs(run: Path, stages: list[str]) -> None:
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert (lines[4]["stage"], lines[4]["step"]) == ("finetune", 1)
    honest = lines[4]["loss"]
    lines[4]["loss"] *= 1 + 1e-6
    kept = [line for line in lines if line["stage"] in stages]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in kept))
    result = repeat(run, 2, None, 120)
    assert result.num_compared == dict.fromkeys(stages, 2)
    assert (result.ok, result.exact, result.differs_in) == (False, True, [])
    assert result.where == "stage finetune, step 1"
    assert result.worst == abs(honest - lines[4]["loss"]) / lines[4]["loss"]
    assert replace(result, exact=False).ok  # with other versions 1e-6 is no difference
    assert not replace(result, exact=False, worst=2e-4).ok


def test_another_version_is_told(run: Path) -> None:
    start = json.loads((run / MANIFEST.name).read_text())["starts"][0]
    assert _differences([start], 1) == []
    del start["packages"]["liger-kernel"]  # as of a run from before it was noted
    assert _differences([start], 1) == []
    start["packages"]["torch"] = "1.0"
    told = _differences([start], 2)
    assert told[0].startswith("package torch: 1.0 -> ")
    assert told[1] == "ranks: 1 -> 2"


def test_what_is_no_run_cannot_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(LopeError, match="manifest"):
        repeat(tmp_path, 2, None, 10)
