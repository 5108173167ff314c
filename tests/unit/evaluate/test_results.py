"""`results.json`: several writers, and means that must not outlive what they are made of."""

from __future__ import annotations

import errno
import fcntl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lope_dist.config.adapter import AdapterConfig
from lope_dist.evaluate.harness import results
from lope_dist.evaluate.harness.results import read_results, record
from lope_dist.evaluate.loaded.rows import rows_for

(ROW,) = rows_for(["all"], AdapterConfig())
IDENTITY = {**ROW.identity(), "checkpoint": "2-finetune", "adapter_sha256": "a"}


def write(run: Path, groups: dict[str, list[str]] | None = None, **accuracies: float) -> None:
    figures = {name: {"acc": value} for name, value in accuracies.items()}
    record(run, ROW, IDENTITY, figures, groups)


def written(run: Path) -> dict[str, float]:
    (row,) = read_results(run)["rows"]
    return {name: figures["acc"] for name, figures in row["tasks"].items()}


def test_processes_that_write_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(run: Path) -> dict[str, Any]:
        table = read_results(run)
        time.sleep(0.02)
        return table

    names = [f"task_{i}" for i in range(6)]
    monkeypatch.setattr(results, "read_results", slow)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: write(tmp_path, **{name: 0.5}), names))
    assert written(tmp_path) == dict.fromkeys(names, 0.5)


def test_scores_are_kept_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(tmp_path, a=0.5)
    assert written(tmp_path) == {"a": 0.5}


def test_a_mean_goes_with_what_it_was_made_of(tmp_path: Path) -> None:
    groups = {"inner": ["a", "b"], "outer": ["inner", "c"], "other": ["c", "d"]}
    write(tmp_path, a=0.1, b=0.2, c=0.3, d=0.4)
    write(tmp_path, groups, inner=0.15, outer=0.2, other=0.35)
    write(tmp_path, a=0.1, new=1.0)  # the same again, and one more
    assert set(written(tmp_path)) == {"a", "b", "c", "d", "new", *groups}
    write(tmp_path, a=0.9)
    assert set(written(tmp_path)) == {"a", "b", "c", "d", "new", "other"}
    write(tmp_path, groups, inner=0.55, outer=0.5)
    assert written(tmp_path)["outer"] == 0.5


def test_scores_of_other_task_files_are_not_kept(tmp_path: Path) -> None:
    figures = {"a": {"acc": 0.5, "task_files": "x"}, "older": {"acc": 0.5}}
    record(tmp_path, ROW, IDENTITY, figures)

    def is_scored(task: str, files: str) -> bool:
        settings = {"task_files": files}
        return results.is_scored(read_results(tmp_path), ROW, IDENTITY, task, settings)

    assert is_scored("a", "x")
    assert not is_scored("a", "y")
    assert not is_scored("older", "x"), "of which files is not known"


def test_scores_of_another_base_are_not_kept(tmp_path: Path) -> None:
    (base,) = rows_for(["base"], AdapterConfig())
    was, now = ({**base.identity(), "adapter_sha256": "a", "base_sha": sha} for sha in "xy")
    record(tmp_path, base, was, {"a": {"acc": 0.5}})
    of_other_adapter = was | {"adapter_sha256": "b"}
    assert results.is_scored(read_results(tmp_path), base, of_other_adapter, "a", {})
    assert not results.is_scored(read_results(tmp_path), base, now, "a", {})
    record(tmp_path, base, now, {"b": {"acc": 0.5}})
    assert set(written(tmp_path)) == {"b"}
    (entry,) = read_results(tmp_path)["rows"]
    del entry["base_sha"]  # as older files have it
    assert results.is_scored({"rows": [entry]}, base, now, "b", {})
