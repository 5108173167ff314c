"""A study's report: Markdown, CSV, JSON, plots and one HTML page."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import write_json
from lope_dist.report.page import page, paragraph, plot, plots, table
from lope_dist.study import tables
from lope_dist.study.cells import Study
from lope_dist.study.plots import study_figures
from lope_dist.study.summary import Summary, summarize

FOLDER = "reports"

Figures = dict[str, tuple[Figure, str]]
"""Name of a plot -> the plot and its caption."""

_NOTES = (
    "Mean ± standard deviation over seeds; in brackets the paper's figure.",
    "Difference to the baseline, with a 95 % interval; * where three seeds or more exclude 0. "
    "Losses: lower is better.",
    "Effect: positive as claimed. Held: yes or no where the 95 % interval of three seeds or more "
    "excludes 0, else open.",
    "Share of the noise's cost that is recovered: (floor - method) / (floor - ceiling). Floor and "
    "ceiling are the best baseline with the noise and without it, the same for all methods. A "
    "ratio of means, with Fieller's 95 % interval over seeds and documents.",
)


def write_study_report(study: Study) -> Path:
    """Write the report into the study's folder; return the page's path.

    Raises:
        LopeError: a file of a run that is not valid JSON, or losses of different documents.
    """
    summary = summarize(study)
    folder = study.folder / FOLDER / study.path.stem
    shutil.rmtree(folder, ignore_errors=True)  # plots of metrics that are no more
    figures = study_figures(summary)
    write_json(folder / "report.json", summary)
    write_markdown(summary, figures, folder / "report.md", folder / "report.csv")
    write_atomic(folder / "report.html", _html(summary, figures))
    return folder / "report.html"


def write_markdown(summary: Summary, figures: Figures, page: Path, figures_csv: Path) -> None:
    """Write a study's tables as Markdown, plots beside them, and every figure by seed as CSV."""
    for name, (figure, _) in figures.items():
        write_atomic(page.with_name(f"{name}.png"), _png(figure))
    write_atomic(figures_csv, tables.as_csv(summary))
    plots = [f"![{caption}]({name}.png)" for name, (_, caption) in figures.items()]
    parts = [f"# {summary['title']}", summary["about"], _facts(summary)]
    for name, (note, content) in _sections(summary).items():
        parts += [f"**{name}.** {note}", tables.markdown(content).rstrip()]
    parts += [*plots, _sources(summary)]
    write_atomic(page, "\n\n".join(part for part in parts if part) + "\n")


def _sections(summary: Summary) -> dict[str, tuple[str, tables.Table]]:
    sections = {
        "Figures": (_NOTES[0], tables.results(summary)),
        f"Against {summary['baseline']}": (_NOTES[1], tables.differences(summary)),
        "Recovered": (_NOTES[3], tables.recovered(summary)),
        "Settings": (_settings_note(summary), tables.settings(summary)),
        "Chosen": (_chosen_note(summary), tables.chosen(summary)),
        "Claims": (_NOTES[2], tables.claims(summary)),
        "Training": ("Of one run, the mean over seeds.", tables.costs(summary)),
    }
    return {name: content for name, content in sections.items() if content[1][1]}


def _settings_note(summary: Summary) -> str:
    if not summary["settings"]:
        return ""
    taken = [f"{a}: as {b}" for points in summary["search_as"].values() for a, b in points.items()]
    return (
        "Of all combinations that were tried, the one with the lowest "
        f"{tables.column_title(summary, summary['choose_on'])} with the first seed."
        + (f" Settings taken over: {', '.join(taken)}." if taken else "")
    )


def _chosen_note(summary: Summary) -> str:
    if summary["choose_on"] is None:
        return ""
    return (
        "Which row `chosen` is: of the rows that a variant offers, the one with the lowest "
        f"{tables.column_title(summary, summary['choose_on'])}."
    )


def _facts(summary: Summary) -> str:
    missing = summary["missing"]
    text = f"Seeds {', '.join(map(str, summary['seeds']))}. Study file: {summary['study']}."
    return text + (f" Missing: {', '.join(missing)}." if missing else "")


def _sources(summary: Summary) -> str:
    files = sorted({p for row in summary["rows"] for p in _paths(row)})
    lines = "".join(f"- `{path}`\n" for path in files)
    return f"<details><summary>Files of the runs</summary>\n\n{lines}\n</details>" if files else ""


def _paths(row: dict[str, Any]) -> list[str]:
    return [path for figure in row["figures"].values() for path in figure["sources"].values()]


def _html(summary: Summary, figures: Figures) -> str:
    sections = {
        name: paragraph(note) + table(*content)
        for name, (note, content) in _sections(summary).items()
    }
    shown = {name: plot(figure, name, caption) for name, (figure, caption) in figures.items()}
    drift = [shown.pop(name) for name in figures if name.startswith("drift-")]
    sections["Plots"] = Markup("").join(shown.values()) + plots(drift, are_broad=True)
    files = sorted({p for row in summary["rows"] for p in _paths(row)})
    sections["Files of the runs"] = Markup("").join(map(paragraph, files))
    intro = paragraph(summary["about"]) + paragraph(_facts(summary))
    return page(summary["title"], intro, sections)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
