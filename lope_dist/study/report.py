"""A study's report (Markdown, CSV, JSON, plots, one HTML page) and the project's results page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
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
    images = {f"{name}.png": caption for name, (_, caption) in figures.items()}
    for name, (figure, _) in figures.items():
        write_atomic(folder / f"{name}.png", _png(figure))
    write_json(folder / "report.json", summary)
    write_atomic(folder / "report.csv", tables.as_csv(summary))
    write_atomic(folder / "report.md", f"# {summary['title']}\n\n{_markdown(summary, images)}")
    write_atomic(folder / "report.html", _html(summary, figures))
    return folder / "report.html"


def write_results(studies: Sequence[Study], docs: Path) -> Path:
    """Write `results.md`, `results.json` and `results/` of several studies; return the page's path.

    `results.json`: ``seeds`` and ``claims``, each claim with the study that it is of, and where a
    study asks for it ``recovered``: noise -> method -> ``share``, ``ci95``, ``seeds``.
    `results/STUDY`: plots, and `figures.csv` with every figure by seed and the file of a run that
    it is from.

    Raises:
        LopeError: as `write_study_report`.
    """
    parts, claims, seeds = [], [], {}
    shares: dict[str, dict[str, Any]] = {}
    for study in studies:
        summary = summarize(study)
        images = {}
        for name, (figure, caption) in study_figures(summary).items():
            path = Path("results") / study.path.stem / f"{name}.png"
            images[str(path)] = caption
            write_atomic(docs / path, _png(figure))
        write_atomic(docs / "results" / study.path.stem / "figures.csv", tables.as_csv(summary))
        parts.append(f"## {summary['title']}\n\n{_markdown(summary, images)}")
        claims += [{"study": summary["study"], **claim} for claim in summary["claims"]]
        seeds |= dict.fromkeys(summary["seeds"])
        for noise, methods in summary["recovered"].items():
            shares[noise] = shares.get(noise, {}) | methods
    results = {"seeds": list(seeds), "claims": claims}
    write_json(docs / "results.json", results | ({"recovered": shares} if shares else {}))
    command = f"lope study report {' '.join(str(study.path) for study in studies)} --docs {docs}"
    intro = (
        f"# Results\n\nWritten by `{command}`. The claims are also in results.json, and every "
        "figure by seed, with the file of the run that it is from, in "
        "results/STUDY/figures.csv.\n\n"
    )
    write_atomic(docs / "results.md", intro + "\n".join(parts))
    return docs / "results.md"


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
    return text + (f" Not run yet: {', '.join(missing)}." if missing else "")


def _markdown(summary: Summary, images: dict[str, str]) -> str:
    parts = [summary["about"], _facts(summary)]
    for name, (note, content) in _sections(summary).items():
        parts += [f"**{name}.** {note}", tables.markdown(content).rstrip()]
    parts += [f"![{caption}]({path})" for path, caption in images.items()]
    parts += [_sources(summary)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sources(summary: Summary) -> str:
    files = sorted({p for row in summary["rows"] for p in _paths(row)})
    lines = "".join(f"- `{path}`\n" for path in files)
    return f"<details><summary>Files of the runs</summary>\n\n{lines}\n</details>" if files else ""


def _paths(row: dict[str, Any]) -> list[str]:
    return [path for figure in row["figures"].values() for path in figure["sources"].values()]


def _html(summary: Summary, figures: dict[str, tuple[Figure, str]]) -> str:
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
