"""`lope clean`: which rows go, why, and that nothing else is lost or touched."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.chat_families import FAMILIES
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.noise import DataNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.corpus.corrupt import corrupt_file
from lope_dist.evaluate.noisy_rows import measured, scorers
from lope_dist.evaluate.noisy_rows.clean import CleanRequest, clean_file
from lope_dist.evaluate.noisy_rows.scorers import base_config, scorer_of_base, scorer_of_run
from lope_dist.report.cleaning import cleaning_lines


@pytest.fixture(scope="module")
def corrupted(alpaca_file, tmp_path_factory) -> Path:
    """Return 24 rows with more columns than are read; the last one is a copy of the first."""
    folder = tmp_path_factory.mktemp("corrupted")
    config = DataNoiseConfig(rate=0.4, unit="example", strength=0.5, operations=("char_insert",))
    corrupt_file(alpaca_file, folder / "all.jsonl", config, seed=3, progress=False)
    rows = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()][:23]
    rows.append(rows[0] | {"output": f" {rows[0]['output'].upper()}\n"})
    rows = [row | {"id": f"r{n}", "more": {"n": [n]}} for n, row in enumerate(rows)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def cleaned(tiny_llama, corrupted, tmp_path_factory) -> tuple[Path, dict]:
    """The command's output with a base model, and its summary."""
    out = tmp_path_factory.mktemp("cleaned") / "kept.jsonl"
    shown = CliRunner().invoke(app, words(tiny_llama, corrupted, out, "--drop", "0.25"))
    assert shown.exit_code == 0, shown.output
    return out, json.loads(shown.stdout)


def words(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    start = ["clean", str(data), "--model", str(model), "--out", str(out), "--json"]
    return [*start, "--duplicates", *more]


def test_the_noisiest_rows_and_copies_go_and_say_why(cleaned, corrupted) -> None:
    out, summary = cleaned
    rows = list(read_lines(corrupted))
    kept, dropped = list(read_lines(out)), list(read_lines(out.with_suffix(".dropped.jsonl")))
    reasons = [row.pop("lope_clean") for row in dropped]
    assert {row["id"] for row in kept} | {row["id"] for row in dropped} == {r["id"] for r in rows}
    by_id = {row["id"]: row for row in rows}
    assert all(by_id[row["id"]] == row for row in (*kept, *dropped)), "every column is kept"
    assert [row["id"] for row in kept] == [r["id"] for r in rows if r in kept], "in their order"
    assert all(rows[reason["row"] - 1] == row for reason, row in zip(reasons, dropped, strict=True))
    by_score = [r for r in reasons if r["reason"] == "base_loss_top"]
    assert sorted(r["rank"] for r in by_score) == list(range(1, 7)), "a quarter of 24"
    copies = {
        row["id"]: r for r, row in zip(reasons, dropped, strict=True) if r["reason"] == "copy"
    }
    assert summary["dropped"] == {"base_loss_top": 6} | ({"copy": 1} if copies else {})
    assert copies in ({}, {"r23": {"reason": "copy", "copies_before": 1, "row": 24}})
    assert "r23" in {row["id"] for row in dropped}, "a copy, whatever its score"
    assert summary["num_kept"] == len(kept) == 24 - len(dropped)


def test_every_score_is_held_against_the_truth(cleaned) -> None:
    _, summary = cleaned
    areas = summary["detection"]["groups"]["all"]["auroc"]
    for name in ("base_loss_top", "base_loss", "ifd", "brevity", "copies"):
        assert 0 <= areas[name] <= 1
    assert not [name for name in areas if name.startswith(("masked", "all"))], "no run, no experts"
    found = summary["noisy_dropped"]
    assert found["both"] <= found["of_dropped"] == sum(summary["dropped"].values())


def test_the_page_marks_the_hardest_tokens_of_the_worst_rows(cleaned, corrupted) -> None:
    out, _ = cleaned
    page, summary = out.with_suffix(".html").read_text(), read_json(out.with_suffix(".json"))
    worst = summary["worst"]
    assert [row["score"] for row in worst] == sorted((r["score"] for r in worst), reverse=True)
    rows = list(read_lines(corrupted))
    for row in worst:
        text = "".join(token for token, _ in row["tokens"])
        assert rows[row["row"] - 1]["instruction"] in text
        given = rows[row["row"] - 1]
        said = sum(len(given[key]) for key in ("instruction", "input", "output"))  # bytes
        num_hard = sum(is_hard for _, is_hard in row["tokens"])
        assert num_hard == -(-said // 10)
        assert not row["tokens"][0][1], "nothing predicts the first token"
    assert page.count("<mark>") == sum(is_hard for row in worst for _, is_hard in row["tokens"])
    assert "Against the truth" in page


def test_another_share_or_score_needs_no_model(tiny_llama, corrupted, cleaned, monkeypatch) -> None:
    out, _ = cleaned
    monkeypatch.setattr(scorers, "load_base", None)
    more = ["--drop", "0.5", "--by", "ifd"]
    shown = CliRunner().invoke(app, words(tiny_llama, corrupted, out, *more))
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["dropped"]["ifd"] == 12


def test_a_threshold_is_found_from_clean_rows(tiny_llama, corrupted, tmp_path) -> None:
    clean = tmp_path / "clean.jsonl"
    scorer = scorer_of_base(
        base_config(str(tiny_llama)), tmp_path / "scores", world=None, base="auto", progress=False
    )
    half = CleanRequest(str(corrupted), tmp_path / "half.jsonl", drop=0.5)
    clean_file(scorer, half, progress=False)
    rows = list(read_lines(half.out))[:10]  # what the least scores were given to
    clean.write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = CleanRequest(str(corrupted), tmp_path / "kept.jsonl", clean=str(clean))
    summary = clean_file(scorer, request, progress=False)
    kept = {row["id"] for row in read_lines(request.out)}
    assert {row["id"] for row in rows} <= kept, "of ten rows the highest one is the threshold"
    dropped = list(read_lines(request.out.with_suffix(".dropped.jsonl")))
    assert dropped
    assert all(row["lope_clean"]["score"] > summary["threshold"] for row in dropped)


def test_a_run_scores_by_its_masked_model_and_goes_on_where_it_was_stopped(
    run_copy, corrupted, tmp_path, monkeypatch
) -> None:
    scorer = scorer_of_run(run_copy, "last", world=None, base="auto", progress=False)
    request = CleanRequest(str(corrupted), tmp_path / "kept.jsonl", drop=0.1, batch_size=4)
    real, rounds = measured.measure_rows, []

    def stopped(*args, **kwargs):
        for rows in real(*args, **kwargs):
            if len(rounds) == 2:
                raise KeyboardInterrupt
            rounds.append(len(rows))
            yield rows

    monkeypatch.setattr(measured, "measure_rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        clean_file(scorer, request, progress=False)
    assert not request.out.exists()
    again = []
    monkeypatch.setattr(
        measured,
        "measure_rows",
        lambda run, examples, *a, **k: again.extend(examples) or real(run, examples, *a, **k),
    )
    summary = clean_file(scorer, request, progress=False)
    assert len(again) == 24 - sum(rounds)
    assert summary["by"] == "masked_loss_top"
    assert summary["dropped"] == {"masked_loss_top": 2}


def test_what_cannot_be_cleaned_is_refused_before_a_model_is_loaded(
    tiny_llama, corrupted, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(scorers, "load_base", None)
    scorer = scorer_of_base(
        base_config(str(tiny_llama)), tmp_path / "scores", world=None, base="auto", progress=False
    )

    def refused(match: str, out: Path = tmp_path / "kept.jsonl", **more) -> None:
        with pytest.raises(LopeError, match=match):
            clean_file(scorer, CleanRequest(str(corrupted), out, **more), progress=False)

    refused("Give one of --drop SHARE and --clean FILE.*neither is")
    refused("both are given", drop=0.1, clean=str(corrupted))
    refused("--drop 1: write a share between 0 and 1", drop=1.0)
    refused(r"write a \.jsonl file", out=tmp_path / "kept.csv", drop=0.1)
    refused("this call reads it", out=corrupted, drop=0.1)
    (tmp_path / "kept.dropped.jsonl").write_text("mine")
    refused("exists and no earlier call wrote it", drop=0.1)
    assert (tmp_path / "kept.dropped.jsonl").read_text() == "mine"


def test_what_is_no_row_is_left_out_and_counted(tiny_config, corrupted, tmp_path) -> None:
    lines = corrupted.read_text().splitlines()[:6]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join([*lines[:2], "{half a line", *lines[2:], "3", '{"id": "no text"}']))
    config = tiny_config(data__max_bad_rows=0.7)
    scorer = scorer_of_base(config, tmp_path / "scores", world=None, base="auto", progress=False)
    request = CleanRequest(str(data), tmp_path / "kept.jsonl", drop=0.3)
    summary = clean_file(scorer, request, progress=False)
    kept = list(read_lines(request.out))
    (dropped,) = read_lines(request.out.with_suffix(".dropped.jsonl"))
    ids = {row["id"] for row in (*kept, dropped)}
    assert ids == {"r0", "r1", "r2", "r3", "r4", "r5", "no text"}
    counts = {key: summary[key] for key in ("num_rows", "num_kept", "num_unreadable")}
    assert counts == {"num_rows": 9, "num_kept": 6, "num_unreadable": 2}
    assert "2 rows cannot be read" in "".join(cleaning_lines(summary))


@pytest.mark.parametrize(
    ("column", "values"),
    [("score", [1.0, float("nan")]), ("image", [b"a", b"\x89PNG"]), ("day", None)],
)
def test_a_column_that_json_cannot_hold_is_refused_before_a_model_is_loaded(
    tiny_llama, tmp_path, monkeypatch, column, values
) -> None:
    texts = {"instruction": ["Say a.", "Say b."], "output": ["a", "b"]}
    days = [date(2020, 1, 2), date(2020, 1, 3)]
    data = tmp_path / "rows.parquet"
    pq.write_table(pa.table(texts | {column: values or days}), data)
    config = base_config(str(tiny_llama))
    scorer = scorer_of_base(config, tmp_path / "scores", world=None, base="auto", progress=False)
    request = CleanRequest(str(data), tmp_path / "kept.jsonl", drop=0.1)
    if values is None:
        clean_file(scorer, request, progress=False)
        assert [row["day"] for row in read_lines(request.out)] == ["2020-01-02", "2020-01-03"]
        return
    monkeypatch.setattr(scorers, "load_base", None)
    with pytest.raises(LopeError, match=rf"rows\.parquet, row \d: the column '{column}'"):
        clean_file(scorer, request, progress=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model__double_quantization", False),
        ("model__skip_modules", ["lm_head", "q_proj"]),
        ("data__template_arguments", {"enable_thinking": False}),
        ("data__template_date", "2026-03-01"),
    ],
)
def test_what_a_base_measured_is_kept_apart_by_all_that_decides_it(
    tiny_config, tmp_path, key, value
) -> None:
    chat = FAMILIES["qwen3"].template + "{{ strftime_now('%Y') }}"
    settings = {"data__template": "chat", "model__chat_template": chat}
    settings["data__template_date"] = "2025-01-01"

    def identity(**changes) -> dict:
        config = tiny_config(**settings | changes)
        return scorer_of_base(config, tmp_path, world=None, base="auto", progress=False).identity

    assert identity() == identity()
    assert identity() != identity(**{key: value})
