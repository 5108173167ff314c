"""Each tracker takes a run's figures, goes on with it after a resume, and gives them back."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lope_dist.core.errors import LopeError, Preempted
from lope_dist.core.side_files import TRACKERS as IDS
from lope_dist.train.session import train
from lope_dist.train.stage import loop
from lope_dist.train.trackers.base import (
    TRACKERS,
    TrackedRun,
    TrackerKind,
    check_installed,
    start_trackers,
)

NAMES = ["mlflow", "tensorboard", "trackio", "wandb"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from trackio import sqlite_storage  # it reads the variable when it is imported

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")


def tracked(folder: Path, steps_done: int = 0) -> TrackedRun:
    config = {"seed": 614, "train": {"global_batch": 8}}
    return TrackedRun(folder, "tests", "a_run", ("tiny",), config, None, steps_done)


def mlflow_losses(folder: Path, key: str, project: str, name: str) -> dict[int, float]:
    run = mlflow_run(folder, project)
    assert run.info.run_name == name
    assert run.data.params["train.global_batch"] == "8"
    assert run.data.tags["lope.tiny"] == "true"
    history = mlflow_client(folder).get_metric_history(run.info.run_id, key)
    return {metric.step: metric.value for metric in history}


def mlflow_client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(folder / "mlruns").absolute().as_uri())


def mlflow_run(folder: Path, project: str):
    client = mlflow_client(folder)
    (run,) = client.search_runs([client.get_experiment_by_name(project).experiment_id])
    return run


def tensorboard_losses(folder: Path, key: str, project: str, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    events = read.Scalars(key)
    assert len({event.step for event in events}) == len(events), "a step is there once"
    return {event.step: event.value for event in events}


def trackio_losses(folder: Path, key: str, project: str, name: str) -> dict[int, float]:
    from trackio.sqlite_storage import SQLiteStorage

    lines = SQLiteStorage.get_logs(project, name)
    return {line["step"]: line[key] for line in lines if key in line}


def wandb_losses(folder: Path, key: str, project: str, name: str) -> dict[int, float]:
    losses = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(file):
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            if key in items:
                losses[items["_step"]] = items[key]
    return losses


def wandb_records(file: Path) -> list[Any]:
    """Return the records of an offline file; its process may still be writing after a run's end."""
    from wandb.proto import wandb_internal_pb2

    end = time.monotonic() + 60
    while time.monotonic() < end:
        records = [wandb_internal_pb2.Record.FromString(d) for d in leveldb_log(file.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{file} has no end")


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """Yield the whole records of a log of LevelDB's format: blocks of 32 KiB."""
    at, whole = 7, b""  # behind W&B's own head
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header begins there
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        if len(part) < length:
            return
        whole += part
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


READERS = {
    "mlflow": mlflow_losses,
    "tensorboard": tensorboard_losses,
    "trackio": trackio_losses,
    "wandb": wandb_losses,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_gives_back_what_it_was_told_and_goes_on(
    name: str, tmp_path: Path, offline: None
) -> None:
    first = start_trackers([name], tracked(tmp_path))
    for step in (1, 2):
        first.log(step, {"poison": {"loss": 4.0 / step, "lr": {"router": 1e-3}}})
    first.finish(is_finished=False)
    known = json.loads((tmp_path / IDS.name).read_text())
    if name == "wandb":
        time.sleep(1.1)  # its folders have the second of the start in their names
    second = start_trackers([name], tracked(tmp_path, steps_done=1))  # step 2 is made again
    for step in (2, 3):
        second.log(step, {"poison": {"loss": 4.5 / step, "lr": {"router": 1e-3}}})
    second.finish(is_finished=True)
    assert json.loads((tmp_path / IDS.name).read_text()) == known
    losses = READERS[name](tmp_path, "poison/loss", "tests", "a_run")
    assert losses == {1: 4.0, 2: 2.25, 3: 1.5}


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(
    tmp_path: Path, offline: None, capsys: pytest.CaptureFixture
) -> None:
    class Failing:
        run_id = "x"

        def __init__(self, run: TrackedRun) -> None:
            if run.name == "never":
                raise ConnectionError("no route to host")

        def log(self, step: int, values: object) -> None:
            raise ConnectionError("gone")

        def finish(self, is_finished: bool) -> None:
            raise AssertionError("it was left out")

    TRACKERS._entries["failing"] = TrackerKind("json", "none", Failing)
    try:
        never = replace(tracked(tmp_path), name="never")
        start_trackers(["failing"], never).log(1, {"loss": 1.0})
        assert "failing could not start (no route to host)" in capsys.readouterr().err
        trackers = start_trackers(["failing", "tensorboard"], tracked(tmp_path))
        for step in (1, 2):
            trackers.log(step, {"poison": {"loss": 1.0}})
        trackers.finish(is_finished=True)
        told = capsys.readouterr().err
        assert told.count("failing failed at step 1") == 1
        assert tensorboard_losses(tmp_path, "poison/loss", "tests", "a_run") == {1: 1.0, 2: 1.0}
    finally:
        del TRACKERS._entries["failing"]


def test_a_missing_package_is_told_with_its_command() -> None:
    TRACKERS._entries["absent"] = TrackerKind("no_such_package", "absent", lambda run: None)
    try:
        with pytest.raises(LopeError, match=r"pip install 'lope-dist\[absent\]'"):
            check_installed(["tensorboard", "absent"])
    finally:
        del TRACKERS._entries["absent"]


def test_every_tracker_that_a_recipe_may_name_is_there() -> None:
    assert list(TRACKERS) == NAMES


def test_a_run_tells_its_trackers_every_step_once_through_a_stop(
    tiny_config, tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second stage and gone on with: one run at each tracker."""
    three = {"train__stages__poison__max_steps": 3, "train__stages__finetune__max_steps": 3}
    config = tiny_config(
        train__trackers=NAMES, train__tracking={"project": "rows", "tags": ["tiny"]}, **three
    )
    real, calls = loop._micro_step, []

    def micro_step(session, parts, batch, plan, is_last, *rest):
        calls.extend([0] * is_last)
        if is_last and len(calls) == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(session, parts, batch, plan, is_last, *rest)

    monkeypatch.setattr(loop, "_micro_step", micro_step)
    with pytest.raises(Preempted):
        train(config)
    run = tmp_path / "run"
    assert mlflow_run(run, "rows").info.status == "KILLED"
    train(config, resume="auto")

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {
        stage: {
            line["step"] + 1 + 3 * index: pytest.approx(line["loss"])
            for line in lines
            if line["stage"] == stage
        }
        for index, stage in enumerate(("poison", "finetune"))
    }
    assert [len(losses) for losses in expected.values()] == [3, 3]
    assert mlflow_run(run, "rows").info.status == "FINISHED"
    for stage, losses in expected.items():
        for tracker in NAMES:
            assert READERS[tracker](run, f"{stage}/loss", "rows", "run") == losses, tracker


def test_the_switch_of_older_recipes_is_read(tiny_config) -> None:
    assert tiny_config(train__tensorboard=True).train.trackers == ("tensorboard",)
    assert tiny_config(train__tensorboard=False).train.trackers == ()
