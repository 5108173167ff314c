"""Premises, validation, pairs, speed and memory in a report; several runs side by side."""

from __future__ import annotations

import json

import pytest
from support.made_up_run import SETTINGS, metric_lines, write_metrics

from lope_dist.core.errors import LopeError
from lope_dist.core.questions import write_scores, write_shares
from lope_dist.report.html import write_report
from lope_dist.report.paired import loss_differences, score_differences
from lope_dist.report.side_by_side import write_comparison
from lope_dist.report.tables import part_asked


def make(folder, base: dict[int, float], masked: dict[int, float]):
    """Write a run with validation and the scores of two rows on the same questions."""
    folder.mkdir(parents=True)
    lines = []
    for line in metric_lines("poison", 4, 1e9):
        lines.append(line | {"memory_bytes": 2 << 30})
        validation = {"base": 3.0, "masked": 3.0 - 0.5 * line["step"]}
        lines.append({"stage": "poison", "step": line["step"], "validation": validation,
                      "time": line["time"]})  # fmt: skip
    write_metrics(folder, lines)
    (folder / "run.yaml").write_text(SETTINGS.replace("train: {", "train: {global_batch: 8, "))
    data = {"rows": 1234, "cut": 0, "bad_rows": {"bad": 2}, "steps": {"poison": 4}}
    premises = {"model": "tiny <b>", "packing": "on: asked", "facts": {}, "data": data,
                "output": "runs/x; go on with --resume",
                "precision": "bfloat16 is emulated"}  # fmt: skip
    starts = [{"status": "finished", "ranks": [{}, {}], "premises": premises}]
    (folder / "manifest.json").write_text(json.dumps({"starts": starts}))
    rows = []
    for name, scores in (("base", base), ("masked", masked)):
        write_scores(folder, name, "demo", {}, {"acc": scores})
        acc = sum(scores.values()) / len(scores)
        rows.append({"name": name, "tasks": {"demo": {"acc": acc, "acc_stderr": 0.1}}})
    (folder / "results.json").write_text(json.dumps({"rows": rows}))
    return folder


BASE = {0: 0.0, 1: 1.0, 2: 0.0, 3: 1.0}
MASKED = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}


def test_sections_of_a_run_are_there(tmp_path):
    page = write_report(make(tmp_path / "run", BASE, MASKED)).read_text()
    places = [page.index(f"<h2>{name}</h2>") for name in ("Premises", "Evaluation", "Validation")]
    assert places == sorted(places), "what a run stands on comes first"
    for text in (
        "tiny &lt;b&gt;",
        "1,234 rows, 2 bad ones left out",
        "2 ranks",
        "poison 4",
        "runs/x; go on",
        "bfloat16 is emulated",
    ):
        assert text in page
    assert "<td>1.5000 (step 4)</td>" in page, "the least validation loss and its step"
    # Two of four questions are gained, none is lost: the interval is that of pairs.
    assert "+50.0 [-41.9, +141.9]" in page
    drawn = {path.stem for path in (tmp_path / "run" / "plots").glob("*.svg")}
    assert {"validation", "speed", "memory"} <= drawn


def test_what_was_not_asked_the_same_questions_has_no_difference(tmp_path):
    run = make(tmp_path / "run", BASE, {i + 1: score for i, score in MASKED.items()})
    results = json.loads((run / "results.json").read_text())
    assert score_differences(run, results) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"num_fewshot": 5},
        {"chat_template": True},
        {"chat_template": True, "template_arguments": {"enable_thinking": False}},
        {"version": 2},
        {"noise": {"seed": 3}},
    ],
)
def test_rows_that_were_asked_otherwise_have_no_difference_and_it_is_told(tmp_path, change):
    run = make(tmp_path / "run", BASE, MASKED)
    results = json.loads((run / "results.json").read_text())
    results["groups"] = {"all": ["demo"]}
    for row in results["rows"]:
        row["tasks"]["demo"] |= {"num_fewshot": 0, "chat_template": False, "version": 1}
        row["tasks"]["all"] = {"acc": row["tasks"]["demo"]["acc"]}
        write_shares(run, row["name"], "all", {"acc": {"demo": 1.0}})
    assert set(score_differences(run, results)) == {("demo", "masked"), ("all", "masked")}
    assert part_asked(results) == ""
    results["rows"][1]["tasks"]["demo"] |= change
    assert score_differences(run, results) == {}
    for key in change:
        assert f"{key} of demo" in part_asked(results)


def test_losses_are_compared_row_by_row():
    rows = {
        "base": {"per_row": [[0, 10.0, 5], [1, 30.0, 10], [7, 1.0, 1]]},
        "masked": {"per_row": [[0, 5.0, 5], [1, 20.0, 10], [8, 9.0, 1]]},
    }
    found = loss_differences({"rows": rows})["masked"]
    assert found.value == pytest.approx(-1.0)
    assert found.num_pairs == 2
    assert found.half == pytest.approx(0.0)  # each row lost 1 nat a token


def test_runs_side_by_side(tmp_path):
    first = make(tmp_path / "a" / "seed-0", BASE, MASKED)
    second = make(tmp_path / "b" / "seed-0", BASE, BASE)
    text = (second / "run.yaml").read_text()
    (second / "run.yaml").write_text(text.replace("rank: 4", "rank: 8"))
    page = write_comparison([first, second], tmp_path / "both.html").read_text()
    assert "a/seed-0: masked" in page
    assert "b/seed-0: masked" in page
    differing = page[page.index("<h2>Settings that differ") : page.index("<h2>Evaluation")]
    assert "adapter.rank" in differing
    assert "max_length" not in differing, "what is equal is left out"
    assert "100.0 ± 10.0" in page
    assert page.count("<svg") == 3, "the loss of one stage, and two validation curves"
    with pytest.raises(LopeError, match="twice"):
        write_comparison([first, first], tmp_path / "both.html")
