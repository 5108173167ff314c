"""What a run is worth, as sections of the report: scores, held-out losses, noise scores."""

from __future__ import annotations

from typing import Any

from lope_dist.report.current import newest_adapter
from lope_dist.report.losses import format_loss
from lope_dist.report.page import (
    Plots,
    absent,
    folded,
    heading,
    paragraph,
    plots,
    table,
)
from lope_dist.report.paired import Difference, loss_differences, score_differences
from lope_dist.report.read import RunFiles, ScoreTable, score_table
from lope_dist.report.score_plots import plot_histogram, plot_results
from lope_dist.report.tables import ABSENT, SCORES, format_interval, format_score, part_asked


def evaluation_section(run: RunFiles, drawn: Plots) -> str:
    """Return the evaluation: groups and single tasks, and the groups' parts folded away."""
    if run.results and run.results.get("left_out") and not run.results["rows"]:
        return paragraph(_left_out(run.results))
    if run.results is None or not run.results.get("rows"):
        return absent("results.json", "run `lope eval` on this folder to score it")
    scores = score_table(run.results)
    head = ["task", *scores.models]

    def rows(lines: list[str], prefix: str = "") -> list[list[str]]:
        return [
            [
                line.removeprefix(prefix),
                *(format_score(scores.scores.get((line, model))) for model in scores.models),
            ]
            for line in lines
        ]

    note = (
        f"{SCORES}. Masked: without the poisoning expert; plain: and without compensation for it."
    )
    note = f"{note} {part_asked(run.results)} {_left_out(run.results)}"
    content = paragraph(" ".join(note.split())) + table(head, rows(scores.overall()))
    for group, parts in scores.parts.items():
        if parts:
            title = f"{group}: its {len(parts)} tasks"
            content += folded(title, table(head, rows(parts, f"{group}_")))
    content += _paired_scores(run, scores)
    if (figure := plot_results(scores)) is None:
        return content
    caption = "Scores, one standard error to each side"
    return content + plots([drawn.add(figure, "results", caption)], are_broad=True)


def _left_out(table: dict[str, Any]) -> str:
    """Say which rows `current.of_now` has left out of a table."""
    names = ", ".join(table.get("left_out", ()))
    return names and f"Left out, of another adapter than the newest checkpoint's: {names}."


def _paired_scores(run: RunFiles, scores: ScoreTable) -> str:
    """Return each model's difference to the base model, question by question."""
    differences = score_differences(run.path, run.results or {"rows": []})
    models = [model for model in scores.models if any(m == model for _, m in differences)]
    if not models:
        return ""
    lines = [line for line in scores.overall() if any(name == line for name, _ in differences)]

    def difference_of(line: str, model: str) -> str:
        score = scores.scores.get((line, model))
        unit = ("+.1f", 100.0) if score is not None and score.is_share else ("+.4g", 1.0)
        return _difference(differences.get((line, model)), *unit)

    rows = [[line, *(difference_of(line, model) for model in models)] for line in lines]
    note = (
        "Difference to the base model, taken question by question, with its 95 % interval; of "
        "shares in percentage points."
    )
    head = ["task", *models]
    return heading("Against the base model") + paragraph(note) + table(head, rows)


def _difference(difference: Difference | None, spec: str, scale: float = 1.0) -> str:
    if difference is None:
        return ABSENT
    return format_interval(difference.value, difference.ends, spec, scale)


def losses_section(run: RunFiles) -> str:
    """Return the losses of held-out responses, a table for each file; nothing without one."""
    content = ""
    for losses in run.losses.values():
        rows = [
            [
                name,
                format_loss(row),
                f"{row.get('num_tokens', 0):,}",
                f"{row.get('num_rows', 0):,}",
            ]
            for name, row in losses["rows"].items()
        ]
        differences = loss_differences(losses)
        for row, name in zip(rows, losses["rows"], strict=True):
            row.append(_difference(differences.get(name), "+.4f"))
        content += heading(str(losses["data"]))
        content += paragraph(_left_out(losses)) if "left_out" in losses else ""
        content += table(["model", "loss", "tokens", "examples", "to the base model"], rows)
    note = (
        "Cross-entropy in nats per response token ± one standard error; lower is better. The "
        "difference to the base model is taken row by row, with its 95 % interval."
    )
    return content and paragraph(note) + content


def samples_section(run: RunFiles) -> str:
    """Return answers to validation prompts, before training and after; nothing without them."""
    if run.samples is None or not run.samples["samples"]:
        return ""
    samples = run.samples["samples"]
    rows = list(dict.fromkeys(row for sample in samples for row in sample["answers"]))
    cells = [
        [s["prompt"], s["expected"], *(s["answers"].get(row, ABSENT) for row in rows)]
        for s in samples
    ]
    note = (
        "Prompts of the validation rows, which are never trained on, each answered with the "
        f"likeliest token each time; after training: checkpoint {run.samples['checkpoint']}"
        + (", which is not the newest." if _is_old(run) else ".")
    )
    head = ["prompt", "answer of the row", *rows]
    return paragraph(note) + table(head, cells, is_text=True)


def _is_old(run: RunFiles) -> bool:
    answered, now = (run.samples or {}).get("adapter_sha256"), newest_adapter(run.path)
    return None not in (answered, now) and answered != now


def noise_scores_section(run: RunFiles, drawn: Plots) -> str:
    """Return how noisy `lope score` found examples; nothing without such a file in the folder."""
    content = ""
    for name, summary in run.noise_scores.items():
        content += heading(f"{summary.get('data', name)}, by {summary['by']}")
        caption = f"{summary.get('num_rows', 0):,} examples by {summary['by']}"
        content += plots([drawn.add(plot_histogram(summary), f"noise-{name}", caption)])
        content += _detection(summary.get("detection") or {})
    return content and paragraph("The larger the score, the noisier the example.") + content


def _detection(detection: dict[str, Any]) -> str:
    groups = detection.get("groups") or {}
    if not groups:
        return ""
    head = ["score", *(f"{name} ({group['num_noisy']})" for name, group in groups.items())]
    names = next(iter(groups.values()))["auroc"]
    rows = [
        [
            name,
            *(f"{g['auroc'][name]:.3f} ± {g['stderr'][name]:.3f}" for g in groups.values()),
        ]
        for name in names
    ]
    note = "AUROC of each score, ± one standard error; the noisy examples of a group in brackets."
    return paragraph(note) + table(head, rows)
