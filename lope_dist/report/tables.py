"""The evaluation and the cost of training as console and plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lope_dist.core.metrics import how_asked
from lope_dist.report.read import RunFiles, Score, ScoreTable, score_table

ABSENT = "–"
SCORES = "Scores ± standard error; shares of right answers in %"
_MOST_LINES = 20
"""Of a table on the console with the single tasks of its groups."""
_MOST_NAMES = 4
"""Of tasks, in a sentence."""
_COLUMN = 14
"""Characters of a column of scores on the console: "100.0 ± 10.0", padding and rule."""


def console_table(
    title: str | None, head: Sequence[str], *, num_names: int = 1, **options: Any
) -> Table:
    """Return an empty table; its first columns hold unbroken names, the others numbers."""
    table = Table(title=title, **options)
    for number, name in enumerate(head):
        is_name = number < num_names
        table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name)
    return table


def format_score(score: Score | None) -> str:
    """Return ``"61.4 ± 1.2"``, a share in percent and others as they are, or a dash."""
    if score is None:
        return ABSENT
    scale, spec, of_error = (100, ".1f", ".1f") if score.is_share else (1, ".4g", ".2g")
    value = f"{scale * score.value:{spec}}"
    return value if score.stderr is None else f"{value} ± {scale * score.stderr:{of_error}}"


def format_interval(
    value: float, ends: Sequence[float] | None, spec: str = "+.4f", scale: float = 1.0
) -> str:
    """Return ``"+0.5 [+0.1, +0.9]"``: a figure and, where it is known, its interval."""
    text = f"{scale * value:{spec}}"
    if ends is None:
        return text
    low, high = (f"{scale * end:{spec}}" for end in ends)
    return f"{text} [{low}, {high}]"


def score_rows(table: ScoreTable) -> list[tuple[str, bool, list[str]]]:
    """Return (name, whether it is part of the group above, one cell for each model)."""
    order = []
    for head in table.overall():
        order.append((head, head, False))
        order += [(p, p.removeprefix(f"{head}_"), True) for p in table.parts.get(head, [])]
    return [
        (name, part, [format_score(table.scores.get((line, model))) for model in table.models])
        for line, name, part in order
    ]


def part_asked(results: dict[str, Any]) -> str:
    """Say if not all documents of the tasks were asked, and if rows were not asked alike."""
    limits = {
        figures["limit"]
        for row in results["rows"]
        for figures in row["tasks"].values()
        if figures.get("limit") is not None
    }
    if not limits:
        return _asked_apart(results)
    shares = ", ".join(f"{limit:g}" for limit in sorted(limits))
    note = f"Only a part of each task's documents was asked (--limit {shares})."
    return f"{note} {_asked_apart(results)}".strip()


def _asked_apart(results: dict[str, Any]) -> str:
    """Say in which settings, and of which tasks, rows differ."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        for task, figures in row["tasks"].items():
            by_task.setdefault(task, []).append(how_asked(figures))
    apart: dict[str, list[str]] = {}
    for task, ways in by_task.items():
        for key in sorted({key for way in ways for key in way}):
            if any(way.get(key) != ways[0].get(key) for way in ways):
                apart.setdefault(key, []).append(task)
    if not apart:
        return ""
    parts = [
        f"{key} of {', '.join(tasks[:_MOST_NAMES])}"
        + (f" and {len(tasks) - _MOST_NAMES} more" if len(tasks) > _MOST_NAMES else "")
        for key, tasks in apart.items()
    ]
    return f"Rows were not all asked alike, and do not compare: {'; '.join(parts)}."


def results_console(results: dict[str, Any], width: int) -> list[Table]:
    """Return `results.json` as rich tables: scores ± standard error, as `SCORES` says.

    One, unless its columns do not fit the console's ``width``. Of many tasks the groups' are left
    out.
    """
    table = score_table(results)
    rows = score_rows(table)
    if len(rows) > _MOST_LINES:
        rows = [row for row in rows if not row[1]]
    names = [
        f"  {escape(line)}" if part else f"[bold]{escape(line)}[/bold]" for line, part, _ in rows
    ]
    longest = max((len(line) + 2 * part for line, part, _ in rows), default=0)
    fit = max(1, (width - longest - 4) // _COLUMN)
    tables = []
    for first in range(0, max(1, len(table.models)), fit):
        console = Table(title=None if tables else SCORES)
        console.add_column("task", no_wrap=True)
        for model in table.models[first : first + fit]:
            # A long name is broken; a figure never is.
            console.add_column(escape(model), justify="right", overflow="fold")
        for name, (_, _, cells) in zip(names, rows, strict=True):
            console.add_row(name, *cells[first : first + fit])
        tables.append(console)
    return tables


def print_results(results: dict[str, Any]) -> None:
    """Print `results.json` as a table, or as several below each other."""
    console = Console()
    for table in results_console(results, console.width):
        console.print(table)
    rows = score_rows(score_table(results))
    if len(rows) > _MOST_LINES and (num_parts := sum(is_part for _, is_part, _ in rows)):
        hint = f"The {num_parts} tasks of the groups are in results.json and in the report."
        console.print(hint, soft_wrap=True, highlight=False)
    if apart := _asked_apart(results):
        console.print(escape(apart), soft_wrap=True, highlight=False)


def print_counts(counts: dict[str, Any]) -> None:
    """Print what `lope params` counts: by role, by stage, and the paper's percentage."""
    base = counts["model_parameters"]
    head = ("parameters", "% of the model")
    roles = console_table("Adapter", ["role", *head], title_justify="left")
    for role, number in counts["by_role"].items():
        _add_count(roles, role, number, base)
    roles.add_section()
    _add_count(roles, "all", counts["adapter_parameters"], base)
    _add_count(roles, "at inference, as the paper counts", counts["inference_parameters"], base)
    stages = console_table("Trained", ["stage", *head], title_justify="left")
    for stage, number in counts["trainable_by_stage"].items():
        _add_count(stages, stage, number["total"], base)
    console = Console()
    console.print(f"Model: {base:,} parameters, {counts['adapted_layers']} layers adapted")
    console.print(counts["quantization"], soft_wrap=True, highlight=False)
    console.print(roles, stages)


def _add_count(table: Table, name: str, number: int, base: int) -> None:
    table.add_row(escape(name), f"{number:,}", f"{100 * number / base:.3f}")


@dataclass(frozen=True)
class StageCost:
    """What one stage took and what became of the loss."""

    stage: str
    num_steps: int
    num_tokens: int
    time_s: float
    first_loss: float
    """Mean over the first tenth of the logged steps."""
    last_loss: float
    """Mean over the last tenth."""
    num_ranks: int | None
    """Ranks of the last start; as the fields below, None for a stage that `cost.json` lacks."""
    peak_memory_bytes: int | None
    """Of the device, on the rank that had most; on a CPU of the process."""
    peak_host_bytes: int | None
    """Of the process, loading included."""

    @property
    def tokens_per_s(self) -> float:
        """Mean speed over the stage."""
        return self.num_tokens / self.time_s if self.time_s > 0 else 0.0


def stage_costs(run: RunFiles) -> list[StageCost]:
    """Return what `cost.json` says of each stage; what it does not is summed up from the metrics.

    A line stands for the steps since the line before: its tokens count for each of them, and
    its speed tells how long the first of these intervals took, before which there is no clock.
    """
    costs = []
    for stage, lines in run.stages().items():
        tenth = max(1, len(lines) // 10)
        losses = [float(line["loss"]) for line in lines]
        steps = [-1, *(int(line["step"]) for line in lines)]
        tokens = [
            int(line["tokens"]) * (now - before)
            for line, before, now in zip(lines, steps, steps[1:], strict=False)
        ]
        rate = float(lines[0]["tokens_per_s"])
        first_s = tokens[0] / rate if rate > 0 else 0.0
        logged_s = first_s + float(lines[-1]["time"]) - float(lines[0]["time"])
        recorded = (run.cost or {}).get(stage, {})
        if recorded.get("steps", 0) <= steps[-1]:
            recorded = {}  # the stage has gone on since
        costs.append(
            StageCost(
                stage=stage,
                num_steps=steps[-1] + 1,
                num_tokens=recorded.get("tokens", sum(tokens)),
                time_s=recorded.get("seconds", logged_s),
                first_loss=sum(losses[:tenth]) / tenth,
                last_loss=sum(losses[-tenth:]) / tenth,
                num_ranks=recorded.get("ranks"),
                peak_memory_bytes=recorded.get("peak_memory_bytes"),
                peak_host_bytes=recorded.get("peak_host_bytes"),
            )
        )
    return costs


def format_duration(time_s: float) -> str:
    """Return ``"1 h 02 min"``, ``"3 min 20 s"`` or ``"4.2 s"``."""
    if time_s < 60:
        return f"{time_s:.1f} s"
    minutes, seconds = divmod(round(time_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
