"""How a run was trained, as sections of the report: curves, drift, router, cost."""

from __future__ import annotations

import math

from lope_dist.core.memory import format_bytes
from lope_dist.report.page import Plots, absent, heading, paragraph, plots, table
from lope_dist.report.plots import ROLES, plot_drift, plot_grad_norm, plot_loss, plot_lr
from lope_dist.report.read import RunFiles
from lope_dist.report.router_plots import plot_poison_weight, plot_usage, usage_scale
from lope_dist.report.tables import ABSENT, StageCost, format_duration
from lope_dist.report.timeline import plot_over_time, plot_validation

_MARGIN = 1.06
_OVER_TIME = (
    ("tokens_per_s", "tokens/s over all ranks", 1.0, "speed", "Tokens a second"),
    ("memory_bytes", "GiB that rank 0 holds", 2.0**-30, "memory", "Memory of rank 0"),
)


def training_section(run: RunFiles, costs: list[StageCost], drawn: Plots) -> str:
    """Return the curves of each stage."""
    head = ["stage", "steps", "loss, first tenth", "loss, last tenth"]
    rows = [
        [cost.stage, f"{cost.num_steps:,}", f"{cost.first_loss:.3f}", f"{cost.last_loss:.3f}"]
        for cost in costs
    ]
    content = table(head, rows)
    stages = run.stages()
    top = _MARGIN * max(_finite(line["loss"] for line in run.metrics), default=1.0)
    for stage, lines in stages.items():
        figures = [drawn.add(plot_loss(lines, top), f"loss-{stage}", f"{stage}: loss")]
        if "grad_norm" in lines[0]:
            caption = f"{stage}: gradient norm"
            figures.append(drawn.add(plot_grad_norm(lines), f"gradient-{stage}", caption))
        if "lr" in lines[0]:
            caption = f"{stage}: learning rate"
            figures.append(drawn.add(plot_lr(lines), f"lr-{stage}", caption))
        content += heading(f"Stage {stage}") + plots(figures)
    return content


def validation_section(run: RunFiles, drawn: Plots) -> str:
    """Return the loss on the validation rows; nothing where none was taken."""
    stages = run.validated_stages()
    if not stages:
        return ""
    experts = list(dict.fromkeys(row for line in run.validation for row in line["validation"]))
    rows = []
    for stage, lines in stages.items():
        for row in experts:
            validated = [line for line in lines if row in line["validation"]]
            if validated:
                best = min(validated, key=lambda line, row=row: line["validation"][row])
                first, last = (validated[i]["validation"][row] for i in (0, -1))
                least = f"{best['validation'][row]:.4f} (step {best['step'] + 1})"
                rows.append([f"{stage}: {row}", f"{first:.4f}", least, f"{last:.4f}"])
    note = "Cross-entropy in nats per response token on rows that are never trained on."
    caption = "Loss on the validation rows; a dotted line ends a stage"
    figure = drawn.add(plot_validation(stages), "validation", caption)
    content = paragraph(note) + plots([figure], are_broad=True)
    return content + table(["stage and experts", "first", "least", "last"], rows)


def drift_section(run: RunFiles, drawn: Plots) -> str:
    """Return how far each stage moved which parameters; nothing where that was not logged."""
    stages = {
        stage: logged
        for stage, lines in run.stages().items()
        if (logged := [line for line in lines if line.get("drift")])
    }
    if not stages:
        return ""
    values = (c for lines in stages.values() for line in lines for c in line["drift"].values())
    top = _MARGIN * max(_finite(values), default=1.0) or 1.0
    figures = [
        drawn.add(plot_drift(lines, top), f"drift-{stage}", f"{stage}: drift")
        for stage, lines in stages.items()
    ]
    ends = {stage: lines[-1]["drift"] for stage, lines in stages.items()}
    rows = [
        [name, *(f"{end[role]:.2e}" if role in end else ABSENT for end in ends.values())]
        for role, (name, _) in ROLES.items()
        if any(role in end for end in ends.values())
    ]
    note = (
        "Mean absolute change of the parameters of each trained role since the stage began "
        "(the paper's figures 5 and 6). Frozen roles do not move."
    )
    head = ["change at the end of", *stages]
    return paragraph(note) + plots(figures, are_broad=True) + table(head, rows)


def router_section(run: RunFiles, drawn: Plots) -> str:
    """Return which experts the router uses, and how it weighs the poisoning ones."""
    usage = run.router_usage()
    if not usage:
        return absent("router.json", "the run has not recorded how its router weighs the experts")
    experts = [str(name) for name in (run.router or {})["experts"]]
    norm = usage_scale(usage, len(experts))
    note = (
        "Mean weight that the router gives each expert, by layer, over the tokens of a stage. "
        f"White is the even share {1 / len(experts):.2f}. The framed row is the poisoning "
        "expert, which is masked at inference."
    )
    content = paragraph(note)
    for stage, layers in usage.items():
        figures = [
            drawn.add(figure, f"router-{stage}-{projection}", f"{stage}: {projection}")
            for projection, figure in plot_usage(layers, experts, norm).items()
        ]
        content += plots(figures, are_broad=True)
    return content + _poison_weight(run, drawn)


def cost_section(run: RunFiles, costs: list[StageCost], drawn: Plots) -> str:
    """Return time, tokens and memory of each stage, and speed and memory over time."""
    head = ["stage", "steps", "tokens", "time", "tokens/s", "ranks", "peak memory", "peak host"]
    rows = [
        [
            cost.stage,
            f"{cost.num_steps:,}",
            f"{cost.num_tokens:,}",
            format_duration(cost.time_s),
            f"{cost.tokens_per_s:,.0f}",
            ABSENT if cost.num_ranks is None else str(cost.num_ranks),
            _size(cost.peak_memory_bytes),
            _size(cost.peak_host_bytes),
        ]
        for cost in costs
    ]
    tokens, time_s = sum(c.num_tokens for c in costs), sum(c.time_s for c in costs)
    note = (
        f"{tokens:,} tokens in {format_duration(time_s)}, over all starts of the run. Memory is "
        "that of the rank that had most: of the device in the stage, of the host's process since "
        "it started, loading included. On a CPU both are the process's."
    )
    stages = run.stages()
    figures = [
        drawn.add(plot_over_time(stages, key, label, scale), name, caption)
        for key, label, scale, name, caption in _OVER_TIME
        if any(key in line for line in run.metrics)
    ]
    return paragraph(note) + table(head, rows) + plots(figures)


def _poison_weight(run: RunFiles, drawn: Plots) -> str:
    stages = (run.router or {}).get("poison_weight") or {}
    figures, rows = [], []
    every = [w for stage in stages.values() for kind in stage.values() for w in kind.values()]
    top = _MARGIN * max(_finite(every), default=1.0)
    for stage, weights in stages.items():
        if not weights.get("clean") or not weights.get("corrupted"):
            continue
        means = [sum(weights[k].values()) / len(weights[k]) for k in ("clean", "corrupted")]
        rows.append([stage, *(f"{mean:.4f}" for mean in means), f"{means[1] - means[0]:+.4f}"])
        for projection, figure in plot_poison_weight(weights, top).items():
            name, caption = f"poison-weight-{stage}-{projection}", f"{stage}: {projection}"
            figures.append(drawn.add(figure, name, caption))
    if not rows:
        return ""
    note = (
        "Mean weight of the poisoning experts on tokens that the injected noise corrupted and on "
        "the others."
    )
    head = ["stage", "clean tokens", "corrupted tokens", "difference"]
    title = heading("The poisoning expert on clean and on corrupted tokens")
    return title + paragraph(note) + table(head, rows) + plots(figures, are_broad=True)


def _finite(values) -> list[float]:
    return [float(v) for v in values if math.isfinite(float(v))]


def _size(size: int | None) -> str:
    return ABSENT if size is None else format_bytes(size)
