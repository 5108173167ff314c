"""From run folders to tables, verdicts and pages."""

import csv
import json
import re
from pathlib import Path

import pytest
from support.study_runs import write_losses, write_runs

from lope_dist.core.errors import LopeError
from lope_dist.study.published import publish
from lope_dist.study.report import write_study_report
from lope_dist.study.summary import summarize

LOSS = {"hydralora/all": 2.0, "hydralora/none": 2.5, "lope/masked": 1.8, "lope/all": 2.0}
ACCURACY = {"hydralora/all": 0.5, "hydralora/none": 0.4, "lope/masked": 0.7, "lope/all": 0.501}


def claim(sentence: str, metric: str, better: str, than: str, direction: str = "higher") -> dict:
    return {
        "claim": sentence,
        "metric": metric,
        "better": better,
        "than": than,
        "direction": direction,
    }


SUITES = {"slices": {"tasks": ["piqa", "siqa"], "limit": 9}}
CLAIMS = [
    claim("lower loss", "loss:clean", "lope/masked", "hydralora/all", "lower"),
    claim("higher loss", "loss:clean", "lope/masked", "hydralora/all"),
    claim("more right", "both", "lope/masked", "hydralora/all"),
    claim("no difference", "acc:piqa", "lope/all", "hydralora/all"),
    claim("A drifts less", "drift:poison", "lope/shared_a", "lope/poison_b", "lower"),
    claim("against the base", "acc:siqa", "hydralora/all", "hydralora/none"),
    claim("not measured", "acc:boolq", "lope/all", "hydralora/all"),
]


@pytest.fixture
def study(make_study):
    made = make_study(
        seeds=[1, 2, 3],
        evaluate={"losses": ["clean"], "suites": SUITES},
        means={"both": ["acc:piqa", "acc:siqa"]},
        paper={"acc:piqa": {"lope/masked": 76.28}},
        claims={str(i): claim for i, claim in enumerate(CLAIMS)},
    )
    made.data_file("clean").parent.mkdir(parents=True)
    made.data_file("clean").write_text("{}\n")
    write_runs(made, LOSS, ACCURACY)
    return made


def test_claims_hold_fail_or_stay_open(study):
    verdicts = {claim["claim"]: claim for claim in summarize(study)["claims"]}
    held = {name: verdict["held"] for name, verdict in verdicts.items()}
    assert held == {
        "lower loss": True,
        "higher loss": False,
        "more right": True,
        "no difference": None,
        "A drifts less": True,
        "against the base": True,
        "not measured": None,
    }
    lower = verdicts["lower loss"]
    assert lower["effect"] == pytest.approx(0.2, abs=0.03)
    assert lower["ci95"][0] < 0.2 < lower["ci95"][1]
    assert verdicts["higher loss"]["effect"] == -lower["effect"]
    assert lower["runs"] == sorted(
        str(study.folder / f"runs/{group}/seed-{seed}/losses/clean.json")
        for group in ("hydralora", "lope")
        for seed in (1, 2, 3)
    )
    assert verdicts["A drifts less"]["effect"] == pytest.approx(3 * (0.012 - 0.001))
    assert verdicts["not measured"] | {"runs": []} == verdicts["not measured"]


def test_a_row_is_chosen_on_another_files_loss_seed_by_seed(make_study, study_tree):
    variants = study_tree["variants"]
    variants["lope"] |= {
        "rows": ["masked", "all", "all:scale=0.5"],
        "choose_from": ["masked", "all"],
    }
    sides = {"better": "lope/chosen", "than": "hydralora/all"}
    made = make_study(
        variants=variants,
        evaluate={"losses": ["noisy", "clean"], "suites": SUITES},
        choose_on="loss:noisy",
        claims={"c": claim("chosen", "loss:clean", **sides, direction="lower")},
    )
    write_runs(made, LOSS | {"lope/all:scale=0.5": 1.0}, ACCURACY | {"lope/all:scale=0.5": 0.5})
    better = {1: "lope/all", 2: "lope/masked"}
    for cell in made.cells:
        losses = dict.fromkeys(LOSS, 3.0) | {better[cell.seed]: 2.0}
        losses["lope/all:scale=0.5"] = 1.0  # the best, but not to choose from
        write_losses(cell, "noisy", losses)
    summary = summarize(made)
    assert summary["chosen"] == {"lope": {"1": "all", "2": "masked"}}
    figures = {f"{row['group']}/{row['row']}": row["figures"] for row in summary["rows"]}
    chosen, clean = figures["lope/chosen"]["loss:clean"], "loss:clean"
    assert chosen["values"]["1"] == figures["lope/all"][clean]["values"]["1"]
    assert chosen["values"]["2"] == figures["lope/masked"][clean]["values"]["2"]
    assert figures["lope/chosen"]["acc:piqa"]["values"].keys() == {"1", "2"}
    assert "loss:noisy" not in figures["lope/chosen"]  # the best of several there by choice
    assert "drift:poison" not in figures["lope/chosen"]
    (verdict,) = summary["claims"]
    assert verdict["per_seed"].keys() == {"1", "2"}
    assert verdict["effect"] == pytest.approx(0.1, abs=0.03)  # 2.0 and 1.8 against 2.0
    page = write_study_report(made).with_name("report.md").read_text()
    assert "| lope | all | masked |" in page


def test_a_chosen_row_is_not_judged_on_what_it_was_chosen_on(make_study, study_tree):
    study_tree["variants"]["lope"]["choose_from"] = ["masked", "all"]
    own = claim("chosen", "loss:clean", "lope/chosen", "hydralora/all", "lower")
    with pytest.raises(LopeError, match=r"claims\.c .*'lope/chosen' .*loss:clean"):
        make_study(evaluate={"losses": ["clean"]}, choose_on="loss:clean", claims={"c": own})


def test_what_is_not_whole_is_not_reported(study):
    cells = {cell.name: cell for cell in study.cells}
    (cells["lope/seed-1"].folder / "study" / "train.json").unlink()  # still trains
    old = cells["lope/seed-2"].folder / "study" / "loss-clean.json"
    record = json.loads(old.read_text())
    record["inputs"]["rows"] = ["masked"]  # `all` is being measured
    old.write_text(json.dumps(record))
    other = cells["hydralora/seed-3"].folder / "study" / "loss-clean.json"
    record = json.loads(other.read_text())
    record["inputs"]["data"] = "of other texts"
    other.write_text(json.dumps(record))
    summary = summarize(study)
    assert summary["missing"] == ["lope/seed-1"]
    assert summary["cost"]["lope"]["seconds"] == 120
    rows = {f"{row['group']}/{row['row']}": row["figures"] for row in summary["rows"]}
    seeds = {name: set(row["loss:clean"]["values"]) for name, row in rows.items()}
    assert seeds["lope/masked"] == {"2", "3"}
    assert seeds["lope/all"] == {"3"}
    assert seeds["hydralora/all"] == {"1", "2"}
    verdicts = {claim["claim"]: claim for claim in summary["claims"]}
    assert verdicts["A drifts less"]["per_seed"].keys() == {"2", "3"}
    assert verdicts["lower loss"]["per_seed"].keys() == {"2"}


def test_figures_are_means_over_seeds_beside_the_papers(study):
    rows = {f"{row['group']}/{row['row']}": row["figures"] for row in summarize(study)["rows"]}
    assert list(rows) == ["hydralora/all", "hydralora/none", "lope/masked", "lope/all"]
    piqa = rows["lope/masked"]["acc:piqa"]
    assert piqa["mean"] == pytest.approx(0.702)
    assert piqa["sd"] == pytest.approx(0.001)
    assert piqa["paper"] == 76.28
    assert piqa["against_baseline"]["mean"] == pytest.approx(0.2)
    assert rows["hydralora/all"]["acc:piqa"]["against_baseline"] is None
    assert rows["hydralora/none"]["acc:piqa"]["sd"] is None  # scored for the first seed alone
    assert rows["lope/masked"]["both"]["mean"] == pytest.approx(0.652)


def test_losses_that_are_still_being_taken_are_left_out(study):
    run = study.folder / "runs/lope/seed-2"
    (run / "study/loss-clean.json").unlink()
    table = json.loads((run / "losses/clean.json").read_text())
    table["rows"]["masked"]["per_row"].pop()
    (run / "losses/clean.json").write_text(json.dumps(table))
    (verdict, *_) = summarize(study)["claims"]
    assert set(verdict["per_seed"]) == {"1", "3"}
    assert verdict["held"] is None
    assert verdict["notes"] == ["2 seeds: no verdict below 3"]


def test_sides_that_were_trained_on_other_amounts_are_told(study):
    for seed in (1, 2, 3):
        path = study.folder / f"runs/lope/seed-{seed}/cost.json"
        cost = json.loads(path.read_text())
        for stage in cost.values():
            if isinstance(stage, dict):
                stage["tokens"] *= 2
        path.write_text(json.dumps(cost))
    summary = summarize(study)
    (note,) = summary["claims"][0]["notes"]
    assert "2.00" in note
    assert note in write_study_report(study).with_suffix(".md").read_text()


def test_a_score_with_another_limit_than_a_suite_asks_for_is_left_out(study):
    path = study.folder / "runs/lope/seed-2/results.json"
    table = json.loads(path.read_text())
    (entry,) = [entry for entry in table["rows"] if entry["name"] == "masked"]
    entry["tasks"]["piqa"]["limit"] = 5
    entry["tasks"]["both_tasks"] = {"acc": 0.6}
    entry["tasks"]["siqa_alone"] = {"acc": 0.5}
    table["groups"] = {"both_tasks": ["piqa", "siqa"], "siqa_alone": ["siqa"]}
    path.write_text(json.dumps(table))
    rows = {f"{row['group']}/{row['row']}": row["figures"] for row in summarize(study)["rows"]}
    seeds = {metric: set(figure["values"]) for metric, figure in rows["lope/masked"].items()}
    assert seeds["acc:piqa"] == seeds["both"] == {"1", "3"}
    assert seeds["acc:siqa"] == {"1", "2", "3"}
    assert "acc:both_tasks" not in seeds, "one of its tasks is scored with another limit"
    assert seeds["acc:siqa_alone"] == {"2"}


def test_every_number_has_its_file(study):
    write_study_report(study)
    with (study.folder / "reports/tiny_study/report.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["seed"] != "mean":
            text = Path(row["source"]).read_text()
            assert f"/{row['variant']}/seed-{row['seed']}/" in row["source"]
            if row["metric"].startswith("acc:"):
                assert row["value"][:8] in text


def test_the_page_is_one_file_and_the_folder_has_every_form(study):
    page = write_study_report(study).read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert page.count("<svg") >= 4
    assert page.count("var(--plot-") >= 4, "in the page's own colours, light or dark"
    names = {path.name for path in (study.folder / "reports/tiny_study").iterdir()}
    plots = {"loss-clean.png", "acc-piqa.png", "both.png", "claims-loss-clean.png"}
    assert names >= plots | {"report.md", "report.csv", "report.json", "report.html"}
    assert "drift-lope.png" in names
    text = (study.folder / "reports/tiny_study/report.md").read_text()
    assert "70.2 ± 0.1 (paper 76.28)" in text
    assert re.search(r"lope: masked \|.*\+20\.0 \[\+1.*\]\*", text)
    assert re.search(r"lower loss .*\| yes \| \+0\.(1[89]|2[012])", text)
    report = json.loads((study.folder / "reports/tiny_study/report.json").read_text())
    assert report["rows"]


def test_what_is_published_stands_with_its_figures_and_claims(study, tmp_path):
    page = publish(study, tmp_path / "docs").read_text()
    results = json.loads((tmp_path / "docs/results.json").read_text())
    assert results["seeds"] == [1, 2, 3]
    assert [entry["held"] for entry in results["claims"]].count(None) == 2
    assert all({"claim", "held", "effect", "ci95", "runs"} <= set(e) for e in results["claims"])
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert images
    assert all((tmp_path / "docs/results/tiny_study" / image).is_file() for image in images)
    index = (tmp_path / "docs/results.md").read_text()
    assert "(results/tiny_study/README.md) | 1, 2, 3 |" in index
    lines = list(csv.DictReader((tmp_path / "docs/results/tiny_study/figures.csv").open()))
    (own,) = (
        line
        for line in lines
        if (line["variant"], line["row"], line["metric"], line["seed"])
        == ("lope", "masked", "loss:clean", "1")
    )
    of_run = json.loads(Path(own["source"]).read_text())["rows"]["masked"]
    assert float(own["value"]) == of_run["loss_per_token"]


def test_cells_that_were_not_run_are_named(make_study):
    study = make_study(evaluate={"losses": ["clean"]}, claims={"a": CLAIMS[0]})
    write_study_report(study)
    text = (study.folder / "reports/tiny_study/report.md").read_text()
    assert "Missing: hydralora/seed-1, lope/seed-1, hydralora/seed-2, lope/seed-2" in text
    assert "| open |" in text


def test_an_axis_of_numbers_is_drawn_as_one(make_study):
    axes = {"data_noise": {"0.05": {"noise.data.rate": 0.05}, "0.3": {"noise.data.rate": 0.3}}}
    study = make_study(
        axes=axes,
        seeds=[1],
        evaluate={"losses": ["clean"], "suites": SUITES},
        claims={"a": CLAIMS[0]},
    )
    sides = [f"{group}/{row}" for group in study.groups for row in _rows(study, group)]
    write_runs(study, dict.fromkeys(sides, 2.0), dict.fromkeys(sides, 0.5))
    summary = summarize(study)
    against = {
        f"{row['group']}/{row['row']}": row["figures"]["acc:piqa"]["against_baseline"]
        for row in summary["rows"]
    }
    assert against["hydralora@0.3/all"] is None
    assert against["lope@0.3/masked"]["mean"] == 0
    names = [claim["claim"] for claim in summary["claims"]]
    assert names == ["lower loss (0.05)", "lower loss (0.3)"]
    assert {claim["better"] for claim in summary["claims"]} == {
        "lope@0.05/masked",
        "lope@0.3/masked",
    }
    assert write_study_report(study).is_file()


def _rows(study, group):
    return study.config.variants[study.groups[group].variant].rows
