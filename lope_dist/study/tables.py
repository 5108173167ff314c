"""A study's summary as tables of text, in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from lope_dist.report.tables import ABSENT, format_duration
from lope_dist.study.summary import Summary

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def results(summary: Summary) -> Table:
    """Return mean ± standard deviation over seeds, with the published figure in brackets."""
    head = ["", *(column_title(summary, metric) for metric in summary["columns"])]
    return head, [
        [row_title(row), *_cells(summary, row, _format_figure)] for row in summary["rows"]
    ]


def differences(summary: Summary) -> Table:
    """Return each row's difference to the baseline with its interval; * where it is clear."""
    head = ["", *(column_title(summary, metric) for metric in summary["columns"])]
    rows = [
        [row_title(row), *_cells(summary, row, _format_difference)]
        for row in summary["rows"]
        if any(figure["against_baseline"] for figure in row["figures"].values())
    ]
    return head, rows


def claims(summary: Summary) -> Table:
    """Return each claim, whether it held, and by how much."""
    head = ["claim", "held", "effect", "95 % interval", "over", "p, seeds"]
    rows = []
    for claim in summary["claims"]:
        metric, ci95, p = claim["metric"], claim["ci95"], claim.get("p_seeds")
        title = column_title(summary, metric)
        rows.append(
            [
                f"{claim['claim']} ({title}: {claim['better']} – {claim['than']})"
                + "".join(f"; {note}" for note in claim["notes"]),
                {True: "yes", False: "no", None: "open"}[claim["held"]],
                ABSENT
                if claim["effect"] is None
                else _format_value(summary, metric, claim["effect"], "+"),
                ABSENT
                if ci95 is None
                else " … ".join(_format_value(summary, metric, x, "+") for x in ci95),
                claim.get("over", ABSENT),
                ABSENT if p is None else f"{p:.3f}",
            ]
        )
    return head, rows


def chosen(summary: Summary) -> Table:
    """Return which row was chosen of each variant, by seed."""
    seeds = [str(seed) for seed in summary["seeds"]]
    rows = [
        [group, *(rows.get(seed, ABSENT) for seed in seeds)]
        for group, rows in summary["chosen"].items()
    ]
    return ["", *(f"seed {seed}" for seed in seeds)], rows


def settings(summary: Summary) -> Table:
    """Return the settings that were chosen of those that were tried."""
    rows = [
        [
            setting["group"],
            setting["name"],
            setting["value"] + (" (at the end)" if setting["is_at_end"] else ""),
            ", ".join(setting["tried"])
            + "".join(f"; {tried} diverged" for tried in setting["diverged"]),
        ]
        for setting in summary["settings"]
    ]
    return ["", "setting", "chosen", "tried"], rows


def recovered(summary: Summary) -> Table:
    """Return which share of each noise's cost each variant recovers."""
    rows = []
    for noise, methods in summary["recovered"].items():
        for method, entry in methods.items():
            ci95 = entry["ci95"]
            rows.append(
                [
                    noise,
                    method,
                    ABSENT if entry["share"] is None else f"{entry['share']:.2f}",
                    ABSENT if ci95 is None else " … ".join(f"{end:.2f}" for end in ci95),
                    str(len(entry["seeds"])),
                    "; ".join(entry["notes"]),
                ]
            )
    return ["noise", "method", "share", "95 % interval", "seeds", "notes"], rows


def costs(summary: Summary) -> Table:
    """Return what training took, the mean over seeds."""
    rows = [
        [
            group,
            format_duration(cost["seconds"]),
            f"{cost['tokens']:,.0f}",
            f"{cost['peak_memory_bytes'] / 2**30:.2f} GiB" if cost["peak_memory_bytes"] else ABSENT,
        ]
        for group, cost in summary["cost"].items()
    ]
    return ["", "time", "tokens", "peak memory"], rows


def row_title(row: dict[str, Any]) -> str:
    """Return what a row is called: variant, points, and how it was asked."""
    points = f" at {', '.join(row['points'])}" if row["points"] else ""
    return f"{row['label']}{points}: {row['row']}"


def column_title(summary: Summary, metric: str) -> str:
    """Return what a metric is called, with its unit."""
    kind, _, name = metric.partition(":")
    if kind == "loss":
        return f"loss, {name}, nats a token"
    if metric in summary["shares"]:
        return f"{name}, {kind.replace('_', ' ')}, %" if name else f"{metric}, %"
    return metric


def _format_value(summary: Summary, metric: str, value: float, sign: str = "") -> str:
    """Return a figure in the unit of its column."""
    if metric in summary["shares"]:
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.4f}" if metric.startswith("loss") else f"{value:{sign}.4g}"


def _format_figure(summary: Summary, metric: str, figure: dict[str, Any]) -> str:
    """Return ``mean ± standard deviation (paper 44.42)``."""
    text = _format_value(summary, metric, figure["mean"])
    if figure["sd"] is not None:
        text += f" ± {_format_value(summary, metric, figure['sd'])}"
    return text if figure["paper"] is None else f"{text} (paper {figure['paper']})"


def _format_difference(summary: Summary, metric: str, figure: dict[str, Any]) -> str:
    """Return ``+0.5 [0.1, 0.9]*``; the star where it is clear."""
    effect = figure["against_baseline"]
    if effect is None:
        return ABSENT
    text = _format_value(summary, metric, effect["mean"], "+")
    if effect["ci95"] is None:
        return text
    ends = ", ".join(_format_value(summary, metric, end, "+") for end in effect["ci95"])
    return f"{text} [{ends}]{'*' if effect['is_clear'] else ''}"


def markdown(table: Table) -> str:
    """Return a Markdown table."""
    head, rows = table
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(map(_escape, line))} |\n" for line in lines)


def as_csv(summary: Summary) -> str:
    """Return all figures, one a line, by seed and as means."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = list(summary["axes"])
    writer.writerow(["variant", *axes, "row", "metric", "seed", "value", "source"])
    for row in summary["rows"]:
        for metric, figure in row["figures"].items():
            where = [row["variant"], *row["points"], row["row"], metric]
            for seed, value in figure["values"].items():
                writer.writerow([*where, seed, value, figure["sources"][seed]])
            writer.writerow([*where, "mean", figure["mean"], ""])
    return text.getvalue()


def _cells(summary: Summary, row: dict[str, Any], show: Any) -> list[str]:
    figures: dict[str, Any] = row["figures"]
    metrics: Sequence[str] = summary["columns"]
    return [
        show(summary, metric, figures[metric]) if metric in figures else ABSENT
        for metric in metrics
    ]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
