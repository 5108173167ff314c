"""`lope loss`: what is kept in the run's folder, and what a second call does."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.thread_ranks import refusals
from support.tiny import save_alpaca
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, write_json
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import load_run, run_checkpoint
from lope_dist.evaluate.losses import measure as losses
from lope_dist.evaluate.losses.likelihood import RowLoss, iter_row_losses
from lope_dist.evaluate.losses.measure import LossRequest, measure_losses, summary
from lope_dist.export.run import ExportRequest, export_run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.jsonl"
    save_alpaca(path, 12)
    return path


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """Examples that went through the model, in order."""
    ids: list[int] = []

    def spy(run, examples, *, batch_size):
        ids.extend(example.id for example in examples)
        return iter_row_losses(run, examples, batch_size=batch_size)

    monkeypatch.setattr(losses, "iter_row_losses", spy)
    return ids


def measure(run: Path, data: Path, experts: str = "all,none", limit: int | None = None) -> dict:
    request = LossRequest(str(data), tuple(experts.split(",")), limit)
    return measure_losses(run, request, progress=False)


def test_a_file_of_losses_has_the_documented_form(run_copy, data) -> None:
    table = measure(run_copy, data)
    assert read_json(run_copy / "losses" / "held_out.json") == table
    assert set(table) == {"data", "fingerprint", "rows"}
    assert list(table["rows"]) == ["all", "base"]
    row = table["rows"]["all"]
    assert row["num_rows"] == len(row["per_row"]) == 12
    assert [entry[0] for entry in row["per_row"]] == list(range(12))
    assert row["num_tokens"] == sum(entry[2] for entry in row["per_row"])
    total = sum(entry[1] for entry in row["per_row"])
    assert row["loss_per_token"] == pytest.approx(total / row["num_tokens"])


def test_a_second_call_measures_only_what_is_missing(run_copy, data, measured) -> None:
    first = measure(run_copy, data, "all", limit=4)
    assert first["rows"]["all"]["num_rows"] == 4
    assert measured == [0, 1, 2, 3]
    measure(run_copy, data, "all,masked", limit=6)
    assert measured == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    again = measure(run_copy, data, "all", limit=4)
    assert again == first
    assert len(measured) == 12
    kept = read_json(run_copy / "losses" / "held_out.json")["rows"]
    assert {name: row["num_rows"] for name, row in kept.items()} == {
        "all": 6,
        "masked": 6,
    }


def test_a_stopped_call_keeps_what_it_has(run_copy, data, monkeypatch, measured) -> None:
    def stops(run, examples, *, batch_size):
        for number, rows in enumerate(iter_row_losses(run, examples, batch_size=2)):
            if number == 3:
                raise KeyboardInterrupt
            yield rows

    with monkeypatch.context() as patch:
        patch.setattr(losses, "iter_row_losses", stops)
        with pytest.raises(KeyboardInterrupt):
            measure(run_copy, data, "all")
    table = measure(run_copy, data, "all")
    assert len(measured) == 6
    shutil.rmtree(run_copy / "losses")
    fresh = measure(run_copy, data, "all")
    assert table["rows"]["all"]["loss_per_token"] == pytest.approx(
        fresh["rows"]["all"]["loss_per_token"], rel=1e-6
    )


def test_losses_of_another_adapter_are_replaced_and_the_bases_stay(
    run_copy, data, measured
) -> None:
    measure(run_copy, data)
    path = run_copy / "losses" / "held_out.json"
    table = read_json(path)
    table["rows"]["all"]["adapter_sha256"] = "another"
    del table["rows"]["base"]["base_sha"]  # as older files have it
    write_json(path, table)
    measured.clear()
    measure(run_copy, data)
    assert measured == list(range(12))


def test_losses_of_another_base_are_replaced(run_copy, data, measured) -> None:
    measure(run_copy, data)
    path = run_copy / "losses" / "held_out.json"
    table = read_json(path)
    table["rows"]["base"]["base_sha"] = "another"
    write_json(path, table)
    measured.clear()
    measure(run_copy, data)
    assert measured == list(range(12))


def test_changed_data_are_measured_again_and_other_data_are_refused(
    run_copy, data, measured, tmp_path
) -> None:
    measure(run_copy, data, "none")
    save_alpaca(data, 5)
    measured.clear()
    assert measure(run_copy, data, "none")["rows"]["base"]["num_rows"] == 5
    assert len(measured) == 5
    other = tmp_path / "other" / data.name
    other.parent.mkdir()
    save_alpaca(other, 7)
    with pytest.raises(LopeError, match=r"losses/held_out\.json .*rename "):
        measure(run_copy, other, "none")


def test_a_relative_path_is_that_of_its_folder(run_copy, tmp_path, measured, monkeypatch) -> None:
    for folder, rows in (("one", 4), ("two", 5)):
        (tmp_path / folder).mkdir()
        save_alpaca(tmp_path / folder / "rows.jsonl", rows)
    monkeypatch.chdir(tmp_path / "one")
    assert measure(run_copy, Path("rows.jsonl"), "none")["data"] == str(tmp_path / "one/rows.jsonl")
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(LopeError, match=r"\(.*one/rows\.jsonl\)"):
        measure(run_copy, Path("rows.jsonl"), "none")
    measure(run_copy, Path("../one/rows.jsonl"), "none")
    assert measured == [0, 1, 2, 3]


def test_files_that_hold_a_relative_path_still_count(run_copy, data, measured, monkeypatch) -> None:
    monkeypatch.chdir(data.parent)
    measure(run_copy, Path(data.name), "none")
    path = run_copy / "losses" / "held_out.json"
    write_json(path, read_json(path) | {"data": data.name})  # as earlier versions wrote it
    for given in (Path(data.name), data):
        measure(run_copy, given, "none")
    assert len(measured) == 12
    save_alpaca(data, 5)
    assert measure(run_copy, Path(data.name), "none")["rows"]["base"]["num_rows"] == 5


def test_a_run_that_goes_on_is_measured_at_the_checkpoint_that_is_written_down(
    run_copy, data, monkeypatch
) -> None:
    loads = []

    def spy(folder, **settings):
        loads.append(settings["checkpoint"].stage)
        return load_run(folder, **settings)

    monkeypatch.setattr(losses, "load_run", spy)
    newest = run_checkpoint(run_copy)
    older = replace(newest, folder=run_copy / "checkpoints/1-poison", index=1, stage="poison")
    monkeypatch.setattr(losses, "run_checkpoint", lambda *_: older)
    table = measure(run_copy, data, "all", limit=1)
    assert loads == ["poison"]
    assert table["rows"]["all"]["adapter_sha256"] == older.adapter_sha256


def test_without_rows_those_that_are_there_are_measured(run_copy, data, tmp_path) -> None:
    export = tmp_path / "export"
    export_run(run_copy, ExportRequest("purified", export))
    command = ["loss", "--json", "--limit", "1"]
    for run, rows in ((run_copy, ["masked", "all", "base"]), (export, None)):
        shown = CliRunner().invoke(app, [*command, str(run), str(data)])
        assert list(json.loads(shown.stdout)["rows"]) == (rows or ["masked", "base"])


def test_what_a_purified_export_cannot_answer_is_told_before_anything_is_measured(
    run_copy, data, tmp_path, measured
) -> None:
    export = tmp_path / "export"
    export_run(run_copy, ExportRequest("purified", export))
    with pytest.raises(LopeError, match=r"--experts all: .*purified"):
        measure(export, data, "masked,all,none")
    assert not measured


def test_rows_with_settings_are_kept_apart(run_copy, data) -> None:
    table = measure(run_copy, data, "all,all:scale=0.5", limit=3)
    half, whole = table["rows"]["all:scale=0.5"], table["rows"]["all"]
    assert half["scale"] == 0.5
    assert half["loss_per_token"] != whole["loss_per_token"]


def test_a_limit_below_one_is_refused(run_copy, data) -> None:
    with pytest.raises(LopeError, match="--limit 0: at least 1"):
        measure(run_copy, data, limit=0)


def test_the_standard_error_is_that_of_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 60, size=400)
    values = tokens * rng.gamma(4.0, 0.5, size=400)
    rows = [
        RowLoss(i, float(v), int(n)) for i, (v, n) in enumerate(zip(values, tokens, strict=True))
    ]
    picks = rng.integers(0, 400, size=(4000, 400))
    means = values[picks].sum(1) / tokens[picks].sum(1)
    found = summary(rows)
    assert found["stderr"] == pytest.approx(means.std(), rel=0.05)
    assert found["loss_per_token"] == pytest.approx(values.sum() / tokens.sum())


def test_nothing_to_divide_by_is_told_as_nothing() -> None:
    assert summary([RowLoss(0, 0.0, 0)])["loss_per_token"] is None
    one = summary([RowLoss(0, 3.0, 2)])
    assert (one["loss_per_token"], one["stderr"]) == (1.5, None)
    assert math.isfinite(one["loss_per_token"])


def test_the_command_prints_a_table_or_json_and_libraries_go_to_its_log(
    run_copy, data, monkeypatch
) -> None:
    def talkative(*arguments, **settings):
        warnings.warn("a library's warning", stacklevel=1)
        return iter_row_losses(*arguments, **settings)

    monkeypatch.setattr(losses, "iter_row_losses", talkative)
    words = ["loss", str(run_copy), str(data), "--experts", "masked,none", "--limit", "2"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "masked" in shown.stdout
    assert "a library's warning" not in shown.output
    assert "of libraries: " in shown.output, "where it is, is said"
    log = (run_copy / "logs" / "loss-0.log").read_text()
    assert "a library's warning" in log
    assert "masked" in log
    table = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert list(table["rows"]) == ["masked", "base"]


def test_ranks_with_other_rows_are_refused_before_the_model_is_loaded(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was mended on one host, and one that only one host has."""
    monkeypatch.setattr(losses, "load_run", None)
    paths = [tmp_path / name for name in ("here.jsonl", "mended.jsonl", "shorter.jsonl")]
    for path in paths:
        save_alpaca(path, 12 if path.stem != "shorter" else 11)
    paths[1].write_text(paths[1].read_text().replace("Add", "Sum", 1))

    def ask(other: Path, world: World) -> dict:
        request = LossRequest(str(other if world.rank else paths[0]))
        return measure_losses(trained.folder, request, progress=False, world=world)

    for other in paths[1:]:
        (told,) = refusals(2, partial(ask, other))
        assert re.search(r"Rank 1 .* in rows \(.*same rows", told)
