"""What a run says it took: the logged tokens, the clock's seconds, added up over its starts."""

from pathlib import Path

import pytest
import torch

from lope_dist.core.memory import peak_rss_bytes
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.engine.world import World
from lope_dist.train.checkpoint import cost as cost_module
from lope_dist.train.checkpoint.cost import CostMeter, StageCost


def costs(folder: Path) -> dict[str, dict]:
    return read_json(folder / "cost.json")


def test_each_stage_has_its_steps_tokens_time_and_memory(trained) -> None:
    lines = list(read_lines(trained.folder / "metrics.jsonl"))
    found = costs(trained.folder)
    assert list(found) == ["poison", "finetune"]
    for stage, cost in found.items():
        logged = [line for line in lines if line["stage"] == stage]
        assert cost["steps"] == len(logged)
        assert cost["tokens"] == sum(line["tokens"] for line in logged)
        between = logged[-1]["time"] - logged[0]["time"]
        assert between < cost["seconds"] < between + 60
        assert cost["rank_seconds"] == cost["seconds"]
        assert cost["ranks"] == 1
        assert cost["tokens_per_s"] == pytest.approx(cost["tokens"] / cost["seconds"])
        assert 100 << 20 < cost["peak_memory_bytes"] <= peak_rss_bytes()
        assert cost["peak_host_bytes"] == cost["peak_memory_bytes"]


def test_a_second_start_adds_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, peaks = iter([10.0, 13.0, 100.0, 101.0, 104.0]), iter([7, 5, 9])
    monkeypatch.setattr(cost_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cost_module, "peak_rss_bytes", lambda: next(peaks))
    world, cost = World(0, 1, torch.device("cpu")), StageCost()
    CostMeter(world, cost).update(4, 400)
    assert (cost.seconds, cost.peak_memory_bytes) == (3.0, 7)
    later = StageCost(**{k: v for k, v in cost.as_json().items() if k != "tokens_per_s"})
    meter = CostMeter(world, later)
    meter.update(6, 600)
    assert (later.seconds, later.peak_memory_bytes) == (4.0, 7)
    meter.update(11, 1000)
    assert later.as_json() == {
        "seconds": 7.0,
        "rank_seconds": 7.0,
        "steps": 11,
        "tokens": 1000,
        "ranks": 1,
        "peak_memory_bytes": 9,
        "peak_host_bytes": 9,
        "tokens_per_s": pytest.approx(1000 / 7),
    }
