"""`report.html`: everything a run folder tells, in one file that needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lope_dist.core.files import write_atomic
from lope_dist.core.memory import format_bytes
from lope_dist.report.data_facts import data_section
from lope_dist.report.page import Plots, absent, facts, folded, page, source
from lope_dist.report.premises import premises_section
from lope_dist.report.quality import (
    evaluation_section,
    losses_section,
    noise_scores_section,
    samples_section,
)
from lope_dist.report.read import RunFiles, read_run
from lope_dist.report.tables import StageCost, format_duration, stage_costs
from lope_dist.report.training import (
    cost_section,
    drift_section,
    router_section,
    training_section,
    validation_section,
)


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` and ``plots/*.svg`` into a run folder; return the page's path.

    Raises:
        LopeError: no such folder, no metrics, or a broken file.
    """
    run = read_run(run_dir)
    plots, costs = Plots(run.path / "plots"), stage_costs(run)
    sections = {
        "Premises": premises_section(run),
        "Evaluation": evaluation_section(run, plots),
        "Held-out loss": losses_section(run),
        "Noise scores": noise_scores_section(run, plots),
        "Sample answers": samples_section(run),
        "Training": training_section(run, costs, plots),
        "Validation": validation_section(run, plots),
        "Drift": drift_section(run, plots),
        "Router": router_section(run, plots),
        "Cost": cost_section(run, costs, plots),
        "Data": data_section(run),
        "Configuration": _file(run.config, "run.yaml"),
        "State": _file(_json(run.state), "state.json") + _starts(run),
    }
    path = run.path / "report.html"
    title = f"Run {run.path.resolve().name}"
    write_atomic(path, page(title, facts(_summary(run, costs)), sections))
    return path


def _summary(run: RunFiles, costs: list[StageCost]) -> dict[str, str]:
    model, adapter = (run.settings.get(key) or {} for key in ("model", "adapter"))
    summary = {"status": str((run.state or {}).get("status", "running"))}
    if "name_or_path" in model:
        quantization = model.get("quantization") or "not quantized"
        summary["base model"] = f"{model['name_or_path']} ({quantization})"
    if "num_normal" in adapter:
        experts = (
            f"{adapter['num_normal']} normal + {adapter.get('num_poison', 0)} poisoning experts"
        )
        summary["adapter"] = f"rank {adapter.get('rank')}, {experts}"
    elif "kind" in adapter:
        summary["adapter"] = str(adapter["kind"])
    summary["steps"] = ", ".join(f"{cost.stage} {cost.num_steps:,}" for cost in costs)
    summary["time"] = format_duration(sum(cost.time_s for cost in costs))
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes]
    if peaks:
        summary["peak memory a rank"] = format_bytes(max(peaks))
    return summary


def _starts(run: RunFiles) -> str:
    if run.manifest is None:
        return ""
    return folded("manifest.json", source(_json(run.manifest) or ""))


def _file(content: str | None, file: str) -> str:
    if not content:
        return absent(file, "the run has not written it")
    return folded(file, source(content))


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, indent=2, ensure_ascii=False)
