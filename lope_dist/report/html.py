"""`report.html`: everything a run folder tells, in one file that needs no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from lope_dist.core.files import write_atomic
from lope_dist.report.plots import plot_loss, plot_router, plot_scores
from lope_dist.report.read import RunFiles, read_run, score_table
from lope_dist.report.tables import (
    format_duration,
    model_label,
    score_rows,
    stage_costs,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #616e7c; --line: #d9dee3;
        --page: #ffffff; --band: #f5f7f9; --accent: #0b5fa5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --muted: #9aa5b1; --line: #3a4550; --page: #161b20; --band: #1f262d;
          --accent: #74a9cf; } }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 8px; padding-bottom: 4px;
     border-bottom: 1px solid var(--line); }
p { color: var(--muted); margin: 8px 0; }
.absent { font-style: italic; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 12px 0; }
th, td { padding: 5px 14px; text-align: right; border-bottom: 1px solid var(--line);
         white-space: nowrap; }
thead th { color: var(--muted); font-weight: 600; white-space: normal; vertical-align: bottom; }
tr > :first-child { text-align: left; padding-left: 6px; }
tbody th { font-weight: 600; }
tbody th.part { font-weight: 400; padding-left: 24px; }
tbody tr:hover { background: var(--band); }
img { display: block; max-width: 100%; height: auto; margin: 16px 0; background: #ffffff;
      border: 1px solid var(--line); border-radius: 8px; padding: 8px; box-sizing: border-box; }
summary { cursor: pointer; color: var(--accent); }
pre { background: var(--band); padding: 12px 16px; border-radius: 8px; overflow-x: auto;
      font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` and ``plots/*.png`` into a run folder; return the page's path.

    Raises:
        LopeError: no such folder, no metrics, or a broken file.
    """
    run = read_run(run_dir)
    title = f"Run {run.path.resolve().name}"
    state = None if run.state is None else json.dumps(run.state, indent=2)
    sections = [
        ("Evaluation", _evaluation(run)),
        ("Training", _training(run)),
        ("Router", _router(run)),
        ("Configuration", _text(run.config, "run.yaml")),
        ("State", _text(state, "state.json")),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>\n" for name, content in sections)
    page = run.path / "report.html"
    write_atomic(
        page,
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{body}</main></body></html>\n",
    )
    return page


def _evaluation(run: RunFiles) -> str:
    if run.results is None or not run.results.get("rows"):
        return _absent("results.json", "run `lope eval` on this folder to score it")
    table = score_table(run.results)
    head = ["task", *(model_label(name) for name in table.models)]
    rows = [
        (f'<th scope="row" class="{"part" if part else "head"}">{escape(line)}</th>', cells)
        for line, part, cells in score_rows(table)
    ]
    note = (
        "<p>Accuracy in percent ± one standard error over the questions. Masked: without the "
        "poisoning expert; plain: and without compensation for it.</p>"
    )
    return note + _table(head, rows) + _plot(run, "results", lambda: plot_scores(table))


def _training(run: RunFiles) -> str:
    head = ["stage", "steps", "tokens", "time", "tokens/s", "loss, first tenth", "loss, last tenth"]
    costs = stage_costs(run)
    rows = [
        (
            f'<th scope="row">{escape(cost.stage)}</th>',
            [
                f"{cost.num_steps:,}",
                f"{cost.num_tokens:,}",
                format_duration(cost.time_s),
                f"{cost.tokens_per_s:,.0f}",
                f"{cost.first_loss:.3f}",
                f"{cost.last_loss:.3f}",
            ],
        )
        for cost in costs
    ]
    tokens, time_s = sum(c.num_tokens for c in costs), sum(c.time_s for c in costs)
    total = f"<p>{tokens:,} tokens in {format_duration(time_s)} of training.</p>"
    return total + _table(head, rows) + _plot(run, "loss", lambda: plot_loss(run))


def _router(run: RunFiles) -> str:
    router = run.router
    if not router or not any(usage for name, usage in router.items() if name != "experts"):
        return _absent("router.json", "the run has not recorded how its router weighs the experts")
    note = (
        "<p>Mean weight that the router gives each expert, by layer. The framed row is the "
        "poisoning expert, which is masked at inference.</p>"
    )
    return note + _plot(run, "router", lambda: plot_router(router))


def _text(content: str | None, file: str) -> str:
    if not content:
        return _absent(file, "the run has not written it")
    return f"<details><summary>{file}</summary><pre>{escape(content)}</pre></details>"


def _absent(file: str, why: str) -> str:
    return f'<p class="absent">No {escape(file)}: {escape(why)}.</p>'


def _table(head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f"<tr>{first}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"
        for first, cells in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _plot(run: RunFiles, name: str, draw: Callable[[], Figure]) -> str:
    """Write ``plots/<name>.png`` and return it as an inline image."""
    buffer = io.BytesIO()
    draw().savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(run.path / "plots" / f"{name}.png", buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="Plot: {name}" src="data:image/png;base64,{data}">'
