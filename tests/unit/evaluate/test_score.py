"""`lope score`: the ranking, its truth, what is kept and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.thread_ranks import refusals
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.noise import DataNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.corpus.corrupt import corrupt_file
from lope_dist.engine.world import World
from lope_dist.evaluate.losses.examples import open_examples
from lope_dist.evaluate.losses.likelihood import losses_of
from lope_dist.evaluate.noisy_rows import measured as on_file
from lope_dist.evaluate.noisy_rows import scorers
from lope_dist.evaluate.noisy_rows import scores as noise_scores
from lope_dist.evaluate.noisy_rows.score import ScoreRequest, score_run
from lope_dist.evaluate.noisy_rows.scores import SCORES, measure_rows
from lope_dist.export.run import ExportRequest, export_run


@pytest.fixture
def corrupted(alpaca_file, tmp_path: Path) -> Path:
    """Return rows of which about half are noisy, each by one operation."""
    path = tmp_path / "corrupted.jsonl"
    config = DataNoiseConfig(
        rate=0.5, unit="example", strength=0.3, operations=("char_insert", "word_order")
    )
    corrupt_file(alpaca_file, path, config, seed=3, progress=False)
    return path


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """Examples that went through the model, in order."""
    ids: list[int] = []

    def spy(run, examples, passes, *, batch_size):
        ids.extend(example.id for example in examples)
        return measure_rows(run, examples, passes, batch_size=batch_size)

    monkeypatch.setattr(on_file, "measure_rows", spy)
    return ids


def rank(run: Path, data: Path, out: Path, **more) -> dict:
    return score_run(run, ScoreRequest(str(data), out, **more), progress=False)


def test_the_ranking_has_every_row_once_the_noisiest_first(run_copy, corrupted, tmp_path) -> None:
    out = tmp_path / "ranking.jsonl"
    summary = rank(run_copy, corrupted, out, limit=40)
    rows = list(read_lines(out))
    assert [row["rank"] for row in rows] == list(range(1, 41))
    assert sorted(row["example_id"] for row in rows) == list(range(40))
    scored = [row["score"] for row in rows if row["score"] is not None]
    assert scored == sorted(scored, reverse=True)
    assert [row["score"] is None for row in rows] == [False] * len(scored) + [True] * (
        40 - len(scored)
    )
    given = [json.loads(line) for line in corrupted.read_text().splitlines()]
    for row in rows:
        assert set(row["scores"]) == set(SCORES) - {"ifd"}
        assert row["response"] == given[row["example_id"]]["output"][:160]
        assert row["noise"] == json.loads(given[row["example_id"]]["noise"])
    assert read_json(out.with_suffix(".json")) == summary
    found = summary["detection"]
    assert found["num_noisy"] + found["num_clean"] + summary["num_unscored"] == 40
    assert {"all", "operation: char_insert", "operation: word_order"} <= set(found["groups"])
    histogram = summary["histogram"]
    assert sum(histogram["noisy"]) == found["num_noisy"]
    assert sum(histogram["clean"]) == found["num_clean"]


def test_a_second_call_measures_only_what_is_missing(
    run_copy, corrupted, tmp_path, measured
) -> None:
    out = tmp_path / "ranking.jsonl"
    rank(run_copy, corrupted, out, limit=5)
    assert measured == [0, 1, 2, 3, 4]
    (kept,) = (run_copy / "scores").glob("*.jsonl")
    with kept.open("a") as file:
        file.write('{"example_id": 9, "num_to')  # a killed call's last line
    first = out.read_text()
    rank(run_copy, corrupted, out, limit=8, by="base_loss")
    assert measured == [0, 1, 2, 3, 4, 5, 6, 7]
    rank(run_copy, corrupted, out, limit=5)
    assert len(measured) == 8
    assert out.read_text() == first
    assert [row["example_id"] for row in read_lines(kept)] != []


def test_rows_of_unknown_truth_are_ranked_too(run_copy, alpaca_file, tmp_path) -> None:
    summary = rank(run_copy, alpaca_file, tmp_path / "out.jsonl", limit=6)
    assert "detection" not in summary
    assert sum(summary["histogram"]["all"]) == 6 - summary["num_unscored"]
    assert "noise" not in next(read_lines(tmp_path / "out.jsonl"))


def test_the_truth_may_stand_in_a_file_of_its_own(
    run_copy, alpaca_file, corrupted, tmp_path
) -> None:
    bare = tmp_path / "bare.jsonl"
    rows = [json.loads(line) for line in corrupted.read_text().splitlines()]
    columns = ("instruction", "input", "output")
    bare.write_text("".join(json.dumps({c: row[c] for c in columns}) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    summary = rank(run_copy, bare, out, truth=str(corrupted), limit=30)
    assert summary["detection"]["num_noisy"] > 5
    with pytest.raises(LopeError, match=r"'noise' .*row"):
        rank(run_copy, bare, out, truth=str(alpaca_file))
    short = tmp_path / "short.jsonl"
    short.write_text("".join(corrupted.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(LopeError, match=r"has 82 rows and .* 83"):
        rank(run_copy, bare, out, truth=str(short))
    short.write_text('{"noise": "[{}]"}\n' * 83)
    with pytest.raises(LopeError, match=r"row 1: .*'noise'"):
        rank(run_copy, bare, out, truth=str(short))


def test_what_cannot_be_scored_is_refused_before_anything_is_loaded(
    run_copy, corrupted, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr(scorers, "load_run", None)
    with pytest.raises(LopeError, match=r"--by: 'ifdd'.*'ifd'"):
        rank(run_copy, corrupted, out, by="ifdd")
    with pytest.raises(LopeError, match=r"write a \.jsonl file"):
        rank(run_copy, corrupted, tmp_path / "out.csv")
    with pytest.raises(LopeError, match=r"--out .*corrupted\.jsonl "):
        rank(run_copy, corrupted, corrupted)


def test_a_purified_export_has_no_score_of_all_experts(run_copy, corrupted, tmp_path) -> None:
    export_run(run_copy, ExportRequest("purified", tmp_path / "purified"))
    out = tmp_path / "out.jsonl"
    assert rank(tmp_path / "purified", corrupted, out, limit=3)["by"] == "masked_loss_top"
    with pytest.raises(LopeError, match=r"--by: 'all_loss' .* masked_"):
        rank(tmp_path / "purified", corrupted, out, limit=3, by="all_loss")


def test_nothing_beside_the_ranking_is_written_over(run_copy, corrupted, tmp_path) -> None:
    rows = [json.loads(line) for line in corrupted.read_text().splitlines()]
    whole = tmp_path / "alpaca.json"
    whole.write_text(json.dumps(rows))
    held, out = whole.read_bytes(), tmp_path / "alpaca.jsonl"
    with pytest.raises(LopeError, match=r"alpaca\.json .* reads"):
        rank(run_copy, whole, out, limit=2)
    with pytest.raises(LopeError, match=r"alpaca\.json .* reads"):
        rank(run_copy, corrupted, out, truth=str(whole), limit=2)
    with pytest.raises(LopeError, match=r"alpaca\.json.* exists"):
        rank(run_copy, corrupted, out, limit=2)
    assert whole.read_bytes() == held
    (run_copy / "results.json").write_text('{"rows": []}')
    with pytest.raises(LopeError, match=r"results\.json.* exists"):
        rank(run_copy, corrupted, run_copy / "results.jsonl", limit=2)
    (tmp_path / "photo.png").write_bytes(b"not ours")
    with pytest.raises(LopeError, match=r"photo\.png.* exists"):
        rank(run_copy, corrupted, tmp_path / "photo.jsonl", limit=2)
    ranking = tmp_path / "ranking.jsonl"
    rank(run_copy, corrupted, ranking, limit=2)
    ranking.with_suffix(".png").write_bytes(b"its plot")
    rank(run_copy, corrupted, ranking, limit=3)
    with pytest.raises(LopeError, match=r"ranking\.jsonl .* reads"):
        rank(run_copy, ranking, ranking, limit=2)


def test_a_loss_that_is_not_finite_is_told(run_copy, corrupted, tmp_path, monkeypatch) -> None:
    def broken(run, batch, labels):
        found = losses_of(run, batch, labels)
        if run.context.answer.experts == "all":
            found.losses_P[found.rows_P == 0] = float("nan")
        return found

    monkeypatch.setattr(noise_scores, "losses_of", broken)
    out = tmp_path / "out.jsonl"
    with pytest.raises(LopeError, match=r"example \d+ .* NaN"):
        rank(run_copy, corrupted, out, limit=3)
    assert not out.exists()


def test_the_command_writes_ranking_summary_and_plot(run_copy, corrupted, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    words = ["score", str(run_copy), str(corrupted), "--out", str(out), "--limit", "30"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "AUROC" in shown.stdout
    assert "operation: word_order" in shown.stdout
    assert "…" not in shown.stdout  # the table fits a terminal
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert summary["detection"]["groups"]["all"]["auroc"]["base_loss_top"] > 0


def test_ranks_with_other_rows_are_refused_before_the_model_is_loaded(
    run_copy: Path, corrupted: Path, alpaca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lope clean` would leave out rows that another host's rows were measured for."""
    monkeypatch.setattr(scorers, "load_run", None)

    def ask(world: World) -> object:
        options = {"world": world, "base": "auto", "progress": False}
        scorer = scorers.scorer_of_run(run_copy, "last", **options)
        source = open_examples(scorer.config, str(corrupted if world.rank else alpaca_file))
        ids = range(len(source))
        return on_file.measure_on_file(
            *(scorer, "rows.jsonl", source, ids, ["base"]),
            batch_size=4,
            world=world,
            progress=False,
        )

    (told,) = refusals(2, ask)
    assert re.search(r"Rank 1 .* in fingerprint \(.*same rows\.jsonl", told)
