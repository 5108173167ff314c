"""The report of a made-up run folder: figures, errors, escaping, absent and broken files."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from lope_dist.core.errors import LopeError
from lope_dist.report.html import write_report
from lope_dist.report.plots import plot_loss, plot_router, plot_scores, running_mean
from lope_dist.report.read import read_run, score_table
from lope_dist.report.tables import (
    format_duration,
    print_counts,
    print_results,
    results_console,
    results_markdown,
    stage_costs,
)

RESULTS = {
    "rows": [
        {
            "name": "base",
            "tasks": {
                "demo": {"acc": 0.5012, "acc_stderr": 0.0251, "version": 1.0, "limit": None},
                "demo_tense": {"acc": 0.41, "acc_stderr": 0.08},
                "gsm8k": {"exact_match_strict": 0.1, "exact_match_stderr_strict": 0.02},
            },
        },
        {
            "name": "lope_masked",
            "tasks": {
                "demo": {"acc": 0.8734, "acc_stderr": 0.0166, "num_fewshot": 0},
                "demo_tense": {"acc": 0.77, "acc_stderr": "N/A"},
            },
        },
    ],
    "groups": {"demo": ["demo_tense"]},
}
MODULES = [f"model.layers.{i}.self_attn.{p}" for i in range(4) for p in ("q_proj", "v_proj")]
ROUTER = {
    "poison": {name: [0.25, 0.25, 0.5] for name in MODULES},
    "finetune": {name: [0.4, 0.35, 0.25] for name in MODULES},
    "experts": ["normal_0", "normal_1", "poison_0"],
}
PNG = b"\x89PNG\r\n\x1a\n"


def metric_lines(stage, num_steps, start, every=1):
    return [
        {
            "stage": stage, "step": step, "loss": 4.0 - 0.1 * step, "lr": {"shared_a": 1e-3},
            "grad_norm": 1.0, "tokens": 100, "tokens_per_s": 50.0, "epoch": 0.0,
            "time": start + 2.0 * step,
        }
        for step in range(every - 1, num_steps, every)
    ]  # fmt: skip


def write_metrics(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run <b>"
    folder.mkdir()
    write_metrics(folder, metric_lines("poison", 20, 1e9) + metric_lines("finetune", 10, 1e9 + 99))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "router.json").write_text(json.dumps(ROUTER))
    (folder / "run.yaml").write_text("output_dir: '<script>alert(1)</script>'\n")
    (folder / "state.json").write_text(json.dumps({"stage": "finetune"}))
    return folder


class Page(HTMLParser):
    """Collects the table cells, the tags and the addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.tags, self.addresses, self._open = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # noqa: D102
        self.tags.append(tag)
        self._open = tag
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):  # noqa: D102
        if self._open in ("td", "th") and data.strip():
            self.cells.append(data)


def test_page_holds_figures_errors_cost_and_plots(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for cell in ("50.1 ± 2.5", "87.3 ± 1.7", "41.0 ± 8.0", "77.0", "10.0 ± 2.0", "–"):
        assert cell in page.cells
    assert page.cells[: page.cells.index("demo")] == ["task", "base model", "LoPE, masked"]
    row = page.cells.index("poison")
    assert page.cells[row + 1 : row + 5] == ["20", "2,000", "40.0 s", "50"]
    assert page.tags.count("img") == 3
    for name in ("results", "loss", "router"):
        png = (run / "plots" / f"{name}.png").read_bytes()
        assert png.startswith(PNG)
        assert f"data:image/png;base64,{base64.b64encode(png).decode()}" in page.addresses


def test_page_needs_no_network_and_escapes_everything(run):
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "b" not in page.tags
    assert "prefers-color-scheme: dark" in text


def test_a_hostile_name_in_the_results_is_text(run):
    hostile = {"rows": [{"name": "<img src=x>", "tasks": {"<i>t</i>": {"acc": 0.5}}}]}
    (run / "results.json").write_text(json.dumps(hostile))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.tags.count("img") == 3
    assert "i" not in page.tags
    assert "<i>t</i>" in page.cells


def test_absent_inputs_are_named(run):
    for name in ("results.json", "router.json", "run.yaml", "state.json"):
        (run / name).unlink()
    text = write_report(run).read_text(encoding="utf-8")
    for name in ("results.json", "router.json", "run.yaml", "state.json"):
        assert f"No {name}:" in text
    assert [path.name for path in (run / "plots").iterdir()] == ["loss.png"]


def test_no_metrics_no_folder_or_broken_files_are_errors(run, tmp_path):
    with pytest.raises(LopeError, match="not a folder"):
        write_report(tmp_path / "nowhere")
    (run / "router.json").write_text("{")
    with pytest.raises(LopeError, match=r"router\.json is not valid JSON"):
        write_report(run)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(LopeError, match="nothing to report"):
        write_report(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(LopeError, match="nothing to report"):
        write_report(run)


def test_a_torn_last_line_is_left_out_and_a_torn_middle_one_is_an_error(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    assert len(read_run(run).metrics) == 30
    (run / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(LopeError, match="line 2"):
        read_run(run)


def test_costs_count_the_steps_between_logged_lines(run):
    write_metrics(run, metric_lines("poison", 20, 1e9, every=5))
    (cost,) = stage_costs(read_run(run))
    assert cost.num_steps == 20
    assert cost.num_tokens == 2000
    assert cost.time_s == pytest.approx(40.0)
    assert cost.tokens_per_s == pytest.approx(50.0)
    assert cost.first_loss == pytest.approx(3.6)
    assert cost.last_loss == pytest.approx(2.1)


def test_markdown_table_holds_errors_and_survives_bars():
    lines = results_markdown(RESULTS).splitlines()
    assert lines[0] == "| task | base model | LoPE, masked |"
    assert lines[2] == "| demo | 50.1 ± 2.5 | 87.3 ± 1.7 |"
    assert lines[3] == "| &nbsp;&nbsp;tense | 41.0 ± 8.0 | 77.0 |"
    assert lines[4] == "| gsm8k (exact_match_strict) | 10.0 ± 2.0 | – |"
    assert len(lines) == 5
    odd = {"rows": [{"name": "a|b", "tasks": {"t": {"acc": 1.0}}}]}
    assert results_markdown(odd).splitlines()[0] == "| task | a\\|b |"


def test_console_tables_hold_the_figures(capsys):
    console = Console(width=120, record=True)
    console.print(results_console(RESULTS))
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
        }
    )
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "0.062" in printed
    assert "2,097,152" in printed


def test_router_plot_frames_the_poisoning_expert_only():
    figure = plot_router(ROUTER)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == [
        f"stage {s}: {p}" for s in ("poison", "finetune") for p in ("q_proj", "v_proj")
    ]
    for axes in panels:
        np.testing.assert_allclose(axes.images[0].get_array().shape, (3, 4))
        (frame,) = axes.patches
        assert frame.get_y() == 1.5
    np.testing.assert_allclose(panels[0].images[0].get_array()[2], 0.5)


def test_router_plot_tells_modules_of_one_name_apart():
    usage = {f"{side}.block.{i}.q": [0.5, 0.5] for side in ("encoder", "decoder") for i in (0, 1)}
    figure = plot_router({"finetune": usage, "experts": ["normal_0", "normal_1"]})
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2
    assert not any(axes.patches for axes in panels)
    assert panels[0].get_title(loc="left") == "stage finetune: encoder.block.*.q"


def test_score_plot_draws_every_score_with_its_error():
    figure = plot_scores(score_table(RESULTS))
    bars = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    assert sorted(bars) == pytest.approx([10.0, 41.0, 50.12, 77.0, 87.34])
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 100)] * 2
    assert all("accuracy, %" in axes.get_xlabel() for axes in figure.axes)


def test_loss_plot_has_a_panel_for_each_stage(run):
    figure = plot_loss(read_run(run))
    assert [len(axes.lines[0].get_xdata()) for axes in figure.axes] == [20, 10]
    assert figure.axes[0].lines[0].get_ydata()[3] == pytest.approx(3.7)


def test_running_mean_is_cut_at_the_ends():
    smooth, window = running_mean(np.array([1.0, 2.0, 6.0]))
    assert window == 3
    np.testing.assert_allclose(smooth, [1.5, 3.0, 4.0])
    np.testing.assert_allclose(running_mean(np.array([7.0]))[0], [7.0])


def test_durations_are_readable():
    assert [format_duration(s) for s in (4.24, 200, 3725)] == ["4.2 s", "3 min 20 s", "1 h 02 min"]


def test_report_does_not_import_torch():
    code = "import sys, lope_dist.report.html; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
