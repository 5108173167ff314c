"""What a run was trained on, as a section of the report."""

from __future__ import annotations

from typing import Any

from lope_dist.report.page import absent, paragraph, table
from lope_dist.report.read import RunFiles


def data_section(run: RunFiles) -> str:
    """Return where the examples came from, how they were formed, and which noise is in them."""
    data, noise = (run.settings.get(key) or {} for key in ("data", "noise"))
    if not data:
        return absent("run.yaml", "the run has not written what it was trained on")
    rows = [["examples", _source(data)]]
    for key, name in (("corpus", "built corpus"), ("template", "template")):
        if data.get(key):
            rows.append([name, str(data[key])])
    packed = "packed" if data.get("packing") else "padded"
    rows.append(["rows", f"{data.get('max_length')} tokens at most, {packed}"])
    rows.append(["noise of the data", _text_noise(noise.get("data") or {})])
    for stage, settings in (_stages(run)).items():
        rows.append([f"noise injected in {stage}", _stage_noise(settings, noise)])
    progress = (run.state or {}).get("progress") or {}
    if "cut_examples" in progress:
        rows.append(["examples cut at the end", f"{progress['cut_examples']:,}"])
    if (run.manifest or {}).get("fingerprints"):
        prints = (run.manifest or {})["fingerprints"]
        rows += [[f"fingerprint of {name}", str(value)] for name, value in prints.items()]
    return _tokens(run) + table(["", ""], rows, is_text=True)


def _tokens(run: RunFiles) -> str:
    targets = {
        stage: (sum(line.get("target_tokens", 0) for line in lines), len(lines))
        for stage, lines in run.stages().items()
    }
    averages = ", ".join(
        f"{stage} {count / max(1, steps):,.0f}" for stage, (count, steps) in targets.items()
    )
    return paragraph(f"Response tokens of a step, on average: {averages}.")


def _source(data: dict[str, Any]) -> str:
    if data.get("sources"):
        return ", ".join(
            f"{s.get('path')} (weight {s.get('weight', 1)})" for s in data["sources"] if s
        )
    most = data.get("max_examples")
    return f"{data.get('path')}" + (f", the first {most:,}" if most else "")


def _stages(run: RunFiles) -> dict[str, dict[str, Any]]:
    return ((run.settings.get("train") or {}).get("stages")) or {}


def _stage_noise(stage: dict[str, Any], noise: dict[str, Any]) -> str:
    kind = stage.get("noise", "none")
    alpha = (noise.get("embedding") or {}).get("alpha")
    parts = []
    if kind in ("text", "hybrid"):
        parts.append(_text_noise(noise.get("text") or {}))
    if kind in ("embedding", "hybrid"):
        parts.append(f"embeddings, alpha {alpha:g}" if alpha is not None else "embeddings")
    return "; ".join(parts) or "none"


def _text_noise(noise: dict[str, Any]) -> str:
    rate = noise.get("rate") or 0
    responses = noise.get("responses") or {}
    parts = []
    if rate:
        parts.append(f"{100 * rate:g} % of {noise.get('unit')}s: {_names(noise)}")
    if responses.get("rate"):
        parts.append(f"{100 * responses['rate']:g} % of responses: {_names(responses)}")
    return "; ".join(parts) or "none"


def _names(noise: dict[str, Any]) -> str:
    operations = noise.get("operations") or ()
    if isinstance(operations, dict):
        return ", ".join(f"{name} {weight:g}" for name, weight in operations.items())
    return ", ".join(map(str, operations))
