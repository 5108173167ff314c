"""What the benchmarks are made of, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lope_dist.engine.world import start_world
from lope_dist.train.run.setup import stage_loader


@pytest.fixture
def trainer(scripts, tiny_llama: Path, tmp_path: Path):
    """The benchmarks' trainer on rows that are all cut to 256 tokens."""
    own = scripts("trainer")
    rows = own.write_rows(tmp_path / "rows.jsonl", [200] * 8)
    config = own.build_config(str(tiny_llama), rows)
    return own.Trainer(config, start_world(config.engine))


def test_the_trainer_trains_and_counts_tokens(trainer) -> None:
    model = trainer.session.model
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    assert trainer.run(2) == 2 * 4 * 256
    assert trainer.seconds > 0
    assert all(".lope." in name for name in trained)
    assert [name for name, p in trained.items() if torch.equal(p, before[name])] == []


def test_the_trainer_takes_other_rows_packed_or_padded(scripts, trainer, tmp_path: Path) -> None:
    rows = scripts("trainer").write_rows(tmp_path / "mixed.jsonl", [2, 9, 4, 7, 3, 5, 8, 6])
    tokens = {}
    for packing in (False, True):
        changes = {"path": str(rows), "packing": packing}
        data = trainer.session.config.data.model_copy(update=changes)
        trainer.take(data, global_batch=8)
        tokens[packing] = trainer.run(1)
    assert tokens[True] == tokens[False] > 0


def test_the_peer_gets_the_rows_that_our_loader_gives(scripts, trainer) -> None:
    ids, labels = scripts("step").equal_rows(trainer, 4)
    stage = trainer.session.config.train.stages["finetune"]
    (batch,) = stage_loader(trainer.session, stage).micro_batches(0)
    assert torch.equal(torch.stack(ids), batch.inputs["input_ids"])
    assert torch.equal(torch.stack(labels), batch.labels)


def test_rows_that_would_need_padding_are_refused(scripts, trainer, tmp_path: Path) -> None:
    rows = scripts("trainer").write_rows(tmp_path / "short.jsonl", [2] * 4)
    data = trainer.session.config.data.model_copy(update={"path": str(rows)})
    trainer.take(data, global_batch=4)
    with pytest.raises(AssertionError, match=r"\{156, 157, 158\}"):
        scripts("step").equal_rows(trainer, 4)


def test_who_goes_first_changes_with_each_turn(scripts) -> None:
    order: list[str] = []
    steps = {name: (lambda n=name: order.append(n)) for name in "abc"}
    times = scripts("common").in_turn(steps, repeats=3, warmup=0)
    assert "".join(order) == "abcbcacab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_slope_is_that_of_the_logarithms(scripts) -> None:
    rows = {float(n): {"step_s": 3.0 * n**2, "peak_mib": 5.0} for n in (1, 2, 4)}
    assert scripts("growth").table("n", rows)["slopes"] == {"step_s": 2.0, "peak_mib": 0.0}
    assert scripts("growth").table("n", {1.0: rows[1.0]})["slopes"] == {}


@pytest.mark.thorough
def test_an_export_answers_in_its_reader_as_it_says(scripts, trained) -> None:
    ratios, figures = scripts("export").measure(trained.folder, None, 8)
    assert ratios["purified_kl"] == 0
    for kind in ("peft", "merged"):
        assert ratios[f"{kind}_kl_over_own"] == pytest.approx(1, rel=0.2)
    rows = {row["format"]: row for row in figures["formats"]["rows"]}
    assert rows["base model"]["kl"] > 0
    assert rows["merged"]["size_mb"] > rows["purified"]["size_mb"] > 0
    assert rows["the run"]["accuracy"] == rows["purified"]["accuracy"]
