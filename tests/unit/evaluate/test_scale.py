"""`lope scale`: the curve is that of the losses, and its least point is what is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny import save_alpaca
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.evaluate.losses import measure as losses
from lope_dist.evaluate.losses.measure import LossRequest, measure_losses
from lope_dist.evaluate.losses.scale import ScaleRequest, choose_scale
from lope_dist.export.run import ExportRequest, export_run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "choose_on.jsonl"
    save_alpaca(path, 9)
    return path


def choose(run: Path, data: Path, *experts: str, grid=(0.25, 0.5, 1.0, 2.0), **more) -> dict:
    return choose_scale(run, ScaleRequest(str(data), experts, grid, **more), progress=False)


def test_the_scale_of_least_loss_is_chosen_for_each_row(run_copy, data, monkeypatch) -> None:
    chosen = choose(run_copy, data, "all", "masked")
    assert read_json(run_copy / "scale.json") == chosen
    monkeypatch.setattr(losses, "load_run", None)  # all is measured
    for word, row in chosen["rows"].items():
        words = ("none", *(f"{word}:scale={s}" for s in ("0.25", "0.5")), word, f"{word}:scale=2")
        table = measure_losses(run_copy, LossRequest(str(data), words), progress=False)
        curve = [[r["loss_per_token"], r["stderr"]] for r in table["rows"].values()]
        assert row["curve"] == [[s, *p] for s, p in zip((0, 0.25, 0.5, 1, 2), curve, strict=True)]
        least = min(row["curve"][1:], key=lambda point: point[1])
        assert (row["scale"], row["loss_per_token"]) == (least[0], least[1])
        assert row["row"] in words
        assert row["at_edge"] == (row["scale"] in (0.25, 2))
        assert len({point[1] for point in row["curve"]}) == 5


def test_what_has_no_scale_to_choose_is_refused(run_copy, data) -> None:
    for word in ("none", "base", "all:scale=0.5"):
        with pytest.raises(LopeError, match="scale of masked, all"):
            choose(run_copy, data, word)
    with pytest.raises(LopeError, match="'mased' "):
        choose(run_copy, data, "mased")
    data.write_text(json.dumps({"instruction": "word " * 200, "output": "far"}) + "\n")
    with pytest.raises(LopeError, match=r"choose_on\.jsonl .*data\.max_length = 256"):
        choose(run_copy, data, "all")


def test_a_purified_export_has_the_scale_of_its_masked_row(run_copy, data, tmp_path) -> None:
    export = tmp_path / "export"
    export_run(run_copy, ExportRequest("purified", export))
    with pytest.raises(LopeError, match=r"--experts all: .*purified"):
        choose(export, data, "masked", "all")
    assert not (export / "losses").exists()
    chosen = choose_scale(export, ScaleRequest(str(data), grid=(1.0,)), progress=False)
    assert list(chosen["rows"]) == ["masked"]


def test_the_command_prints_the_curve_and_loss_warns_on_the_same_rows(run_copy, data) -> None:
    words = ["scale", str(run_copy), str(data), "--experts", "all", "--grid", "1,0.5"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "0 (base model)" in shown.stdout
    assert "all: --experts all" in shown.stdout
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["num_rows"] == 9
    told = CliRunner().invoke(app, ["loss", str(run_copy), str(data), "--experts", "all"])
    assert "chose the run's scale on these data" in told.stderr
    save_alpaca(data.with_name("others.jsonl"), 3)
    others = ["loss", str(run_copy), str(data.with_name("others.jsonl")), "--experts", "all"]
    assert "chose the run's scale" not in CliRunner().invoke(app, others).stderr
    for grid in ("0.5,x", "0,1", "", "nan"):
        result = CliRunner().invoke(app, [*words[:5], "--grid", grid])
        assert isinstance(result.exception, LopeError)
        assert "numbers above 0" in str(result.exception)
