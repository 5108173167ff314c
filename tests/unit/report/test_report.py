"""The report of a made-up run folder: figures, errors, escaping, absent and broken files."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console
from support.made_up_run import (
    COST,
    LOSSES,
    POISON_WEIGHT,
    RANKING,
    RESULTS,
    ROUTER,
    SETTINGS,
    metric_lines,
    write_metrics,
)

from lope_dist.core.errors import LopeError
from lope_dist.report.html import write_report
from lope_dist.report.read import read_run, score_table
from lope_dist.report.score_plots import plot_results
from lope_dist.report.tables import (
    SCORES,
    format_duration,
    print_counts,
    print_results,
    results_console,
    score_rows,
    stage_costs,
)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run <b>"
    folder.mkdir()
    write_metrics(folder, metric_lines("poison", 20, 1e9) + metric_lines("finetune", 10, 1e9 + 99))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "router.json").write_text(json.dumps(ROUTER | {"poison_weight": POISON_WEIGHT}))
    (folder / "run.yaml").write_text(SETTINGS)
    (folder / "state.json").write_text(json.dumps({"status": "running", "stage": "finetune"}))
    (folder / "cost.json").write_text(json.dumps(COST))
    (folder / "losses").mkdir()
    (folder / "losses" / "test.json").write_text(json.dumps(LOSSES))
    (folder / "ranking.json").write_text(json.dumps(RANKING))
    return folder


class Page(HTMLParser):
    """Collects table cells, headings, plots' labels, tags and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.tags, self.addresses, self._open = [], [], [], ""
        self.sections, self.labels = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # noqa: D102
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        self._open = self._open if tag == "wbr" else tag
        self.labels += [value for name, value in attrs if name == "aria-label"]
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):  # noqa: D102
        if self._open in ("td", "th"):
            self.cells[-1] += data
        if self._open == "h2":
            self.sections.append(data)

    def handle_endtag(self, tag):  # noqa: D102
        self._open = ""


SECTIONS = [
    "Evaluation", "Held-out loss", "Noise scores", "Training", "Drift", "Router", "Cost", "Data",
    "Configuration", "State",
]  # fmt: skip


def row_of(page, name):
    """Return the cells that follow the last one of this name."""
    place = len(page.cells) - page.cells[::-1].index(name)
    return page.cells[place:]


def test_page_holds_figures_errors_cost_and_plots(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.sections == SECTIONS
    for cell in ("50.1 ± 2.5", "87.3 ± 1.7", "41.0 ± 8.0", "77.0", "10.0 ± 2.0", "–"):
        assert cell in page.cells
    assert page.cells[: page.cells.index("demo")] == ["task", "base", "masked"]
    assert "2.5000 ± 0.0200" in page.cells
    assert "0.750 ± 0.100" in page.cells
    costs = page.cells[page.cells.index("peak host") + 1 :]
    assert costs[:8] == ["poison", "20", "1,999", "1 min 01 s", "33", "2", "3.00 GiB", "2.50 GiB"]
    assert costs[8:16] == ["finetune", "10", "1,000", "20.0 s", "50", "–", "–", "–"]
    assert row_of(page, "poisoning B")[:2] == ["4.00e-02", "2.00e-02"]
    assert page.cells[page.cells.index("+0.1500") - 3 :][:3] == ["poison", "0.2000", "0.3500"]
    assert row_of(page, "noise injected in poison")[0] == (
        "10 % of words: word_order 2; embeddings, alpha 0.05"
    )
    curves = [f"{s}: {k}" for s in ("poison", "finetune") for k in ("loss", "drift", "v_proj")]
    assert {*curves, "Scores, one standard error to each side"} <= set(page.labels)
    assert page.tags.count("svg") == len(page.labels) == 17
    assert len(list((run / "plots").glob("*.svg"))) == 17


def test_page_needs_no_network_and_escapes_everything(run):
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"https?://|url\((?!#)|@import", text)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "b" not in page.tags
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert "prefers-color-scheme: dark" in text


def test_a_hostile_name_in_the_results_is_text(run):
    hostile = {"rows": [{"name": "<img src=x>", "tasks": {"<i>t</i>": {"acc": 0.5}}}]}
    (run / "results.json").write_text(json.dumps(hostile))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "img" not in page.tags
    assert "i" not in page.tags
    assert "<i>t</i>" in page.cells
    assert "<img src=x>" in page.cells


def test_a_hostile_stage_is_text_and_its_plots_stay_in_their_folder(run):
    write_metrics(run, metric_lines('"><b>..', 5, 1e9))
    text = write_report(run).read_text(encoding="utf-8")
    assert "b" not in Page(text).tags
    assert (run / "plots" / "loss--b-.svg").exists()


def test_absent_inputs_are_named(run):
    write_report(run)  # whose other plots go
    for path in [*run.glob("*.json"), run / "run.yaml", run / "losses" / "test.json"]:
        path.unlink()
    write_metrics(run, [line | {"drift": {}} for line in metric_lines("poison", 3, 1e9)])
    text = write_report(run).read_text(encoding="utf-8")
    for name in ("results.json", "router.json", "run.yaml", "state.json"):
        assert f"No {name}:" in text
    without = {"Held-out loss", "Noise scores", "Drift"}
    assert Page(text).sections == [name for name in SECTIONS if name not in without]
    drawn = sorted(path.name for path in (run / "plots").iterdir())
    assert drawn == ["gradient-poison.svg", "loss-poison.svg", "lr-poison.svg", "speed.svg"]


def test_no_metrics_or_no_folder_are_errors_and_damaged_files_are_left_out(run, tmp_path, capsys):
    with pytest.raises(LopeError, match="not a folder"):
        write_report(tmp_path / "nowhere")
    names = ("router.json", "results.json", "state.json", "cost.json", "losses/test.json")
    write_metrics(run, metric_lines("poison", 2, 1e9))
    for content in ("{", "[]", '{"rows": 3, "poison": 5}', "\0\0", "\udc00"):
        for name in names:  # each its own reader
            (run / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        write_report(run)
    for name in names:
        assert (run / name).read_bytes() == b"\xed\xb0\x80", "a reader changes nothing"
    assert f"{run / 'router.json'} is damaged (" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(LopeError, match=r"metrics\.jsonl "):
        write_report(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(LopeError, match=r"metrics\.jsonl "):
        write_report(run)


def test_a_table_too_wide_for_the_console_is_continued_below(monkeypatch, capsys):
    names = [f"masked:mode=constant:beta={i}" for i in range(9)]
    rows = [{"name": n, "tasks": {"demo": {"acc": 0.5 + i / 100, "acc_stderr": 0.1}}}
            for i, n in enumerate(names)]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "60")
    print_results({"rows": rows})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 60
    for i in range(9):
        assert f"{50 + i}.0 ± 10.0" in printed
    assert printed.count(SCORES) == 1


def test_damaged_lines_are_left_out_and_told(run, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    assert len(read_run(run).metrics) == 30
    assert capsys.readouterr().err == "", "a killed run leaves a torn last line"
    bad = [lines[1][:20], "\0" * 99, "{}", "[]", lines[4].replace("poison", '"')]
    (run / "metrics.jsonl").write_text("\n".join([lines[0], *bad, *lines[2:], ""]))
    assert len(read_run(run).metrics) == 29
    assert "5 lines (2, 3, 4, 5, 6)" in capsys.readouterr().err


def test_costs_count_the_steps_between_logged_lines(run):
    write_metrics(run, metric_lines("poison", 20, 1e9, every=5))
    (run / "cost.json").unlink()
    (cost,) = stage_costs(read_run(run))
    assert cost.num_steps == 20
    assert cost.num_tokens == 2000
    assert cost.time_s == pytest.approx(40.0)
    assert cost.tokens_per_s == pytest.approx(50.0)
    assert cost.first_loss == pytest.approx(3.6)
    assert cost.last_loss == pytest.approx(2.1)


def test_rows_of_scores_hold_errors_and_a_dash_for_what_is_absent():
    rows = {name: (part, cells) for name, part, cells in score_rows(score_table(RESULTS))}
    assert rows["demo"] == (False, ["50.1 ± 2.5", "87.3 ± 1.7"])
    assert rows["tense"] == (True, ["41.0 ± 8.0", "77.0"])
    assert rows["gsm8k (exact_match_strict)"] == (False, ["10.0 ± 2.0", "–"])
    assert len(rows) == 3


def test_only_shares_are_in_percent_and_a_metric_needs_no_error():
    figures = {
        "perplexity": 3.9071, "perplexity_stderr": 0.0812, "acc": 0.7, "num_docs": 200,
        "bits_per_byte": 0.6831, "f1": 88.2, "exact_match_strict": 1.0, "num_fewshot": 5,
        "limit": 200.0, "version": 3.0,
    }  # fmt: skip
    table = score_table({"rows": [{"name": "base", "tasks": {"t": figures}}]})
    assert {name: cells[0] for name, _, cells in score_rows(table)} == {
        "t (perplexity)": "3.907 ± 0.081",
        "t": "70.0",
        "t (bits_per_byte)": "0.6831",
        "t (f1)": "88.2",
        "t (exact_match_strict)": "100.0",
    }
    (axes,) = plot_results(table).axes
    assert [bar.get_width() for bar in axes.patches] == [70.0, 100.0]
    assert (
        plot_results(score_table({"rows": [{"name": "b", "tasks": {"t": {"bleu": 3.0}}}]})) is None
    )


def test_console_tables_hold_the_figures(capsys):
    console = Console(width=120, record=True)
    (table,) = results_console(RESULTS, 120)
    console.print(table)
    assert "87.3 ± 1.7" in console.export_text()
    print_results(RESULTS)
    print_counts(
        {
            "model_parameters": 6_738_415_616,
            "adapted_layers": 64,
            "by_role": {"shared_a": 1_048_576, "normal_b": 3_145_728},
            "adapter_parameters": 5_251_072,
            "inference_parameters": 4_194_304,
            "trainable_by_stage": {"poison": {"total": 2_097_152}},
            "quantization": "97.0% of the weights are in NF4.",
        }
    )
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "0.062" in printed
    assert "2,097,152" in printed


def test_costs_of_a_stage_that_has_gone_on_are_the_metrics(run):
    (run / "cost.json").write_text(json.dumps({"poison": COST["poison"] | {"steps": 12}}))
    cost = stage_costs(read_run(run))[0]
    assert (cost.num_tokens, cost.num_ranks) == (2000, None)


def test_durations_are_readable():
    assert [format_duration(s) for s in (4.24, 200, 3725)] == ["4.2 s", "3 min 20 s", "1 h 02 min"]


def test_report_does_not_import_torch():
    code = "import sys, lope_dist.report.html; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
