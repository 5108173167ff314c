"""Write docs/performance.md, and the table of docs/export.md, from the files in bench/results.

Run: python bench/write_docs.py     (`make bench` does, after all benchmarks)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common import RESULTS

DOCS = Path(__file__).resolve().parent.parent / "docs"
OUT = DOCS / "performance.md"
HEAD = """# Performance

Written by `make bench` (`bench/write_docs.py`) from the files in `bench/results`; not by hand.
Every figure stands beside a peer that ran in turns with it, in the same process or the same
run. A ratio that misses its target is marked.
"""
TITLES = {
    "startup": "Start-up: seconds over what is allowed",
    "adapter": "One layer: peft's LoRA of the same total rank, HydraLoRA as a loop over experts",
    "launches": "One layer on a GPU: kernels launched beside peft's LoRA, counted on a CPU",
    "step": "Whole steps: Hugging Face Trainer with peft, packing, two ZeRO-3 ranks",
    "eval": "Evaluation: lm-eval's `hf` with peft",
    "corpus": "The corpus: noise and tokenizing on one core, memory of a build",
    "peers": "Ranks that watch each other: keys the store serves, and who is named when",
    "growth": "How cost grows: slope of log time over log quantity",
    "long": "Long sequences: memory of loss and embedding noise, LLaMA2-7B's shape",
    "export": "Exports of the quickstart's run",
    "gpu": "One GPU, LLaMA2-7B's shape",
    "sharded_load": "Sharded load: transformers with DeepSpeed, 1.2 B parameters",
    "sharded_load_llama2_7b": "Sharded load: LLaMA2-7B's shape beside `lope plan`",
    "sharded_eval": "Answers of a spread base: one that holds it whole, 1.2 B parameters",
    "sharded_eval_llama2_7b": "Answers of a spread base: LLaMA2-7B, beside `lope plan`",
}


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page; ``results`` are the files' contents by name."""
    order = [name for name in TITLES if name in results]
    order += [name for name in sorted(results) if name not in TITLES]
    return "\n".join([HEAD, *(_section(name, results[name]) for name in order)])


def _section(name: str, result: dict[str, Any]) -> str:
    targets = result.get("targets", {})
    lines = [f"## {TITLES.get(name, name)}", ""]
    if result.get("ratios"):
        lines += ["| ratio | measured | target |", "| --- | ---: | --- |"]
        for key, value in result["ratios"].items():
            target = targets.get(key, "")
            missed = " **missed**" if target and not met(value, target) else ""
            lines.append(f"| {key} | {value:.3f} | {target}{missed} |")
        lines.append("")
    for table in (result.get("figures") or {}).values():
        if isinstance(table, dict) and "rows" in table:
            lines += [*_table(table["rows"]), ""]
    lines += [_origin(name, result.get("machine")), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    keys = list(rows[0])
    lines = [f"| {' | '.join(keys)} |", "|" + " ---: |" * len(keys)]
    return lines + [f"| {' | '.join(_cell(row[key]) for key in keys)} |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.5g}"


def export_table(result: dict[str, Any]) -> str:
    """Return what docs/export.md says of the exports that `bench/export.py` made."""
    figures, machine = result["figures"], result["machine"]
    run = figures["run"]
    lines = [
        f"The quickstart's run ({run['model']}, rank {run['rank']}, {run['num_normal']} + "
        f"{run['num_poison']} experts), each export read by who it is for:",
        "",
        "| format | size | read by | KL, nats a token | same token | accuracy |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in figures["formats"]["rows"]:
        size = "" if row["size_mb"] is None else f"{row['size_mb']:.1f} MB"
        lines.append(
            f"| {row['format']} | {size} | {row['loads_in']} | {row['kl']:.4g} | "
            f"{row['same_token']:.1f} % | {row['accuracy']:.1f} % |"
        )
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "peft")
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Over {figures['response_tokens']} response tokens of {figures['examples']} examples "
            f"that the mean had not seen; {machine['date']}, {versions}; `bench/export.py`.",
        ]
    )


def replace_marked(page: str, name: str, text: str) -> str:
    """Return a page with another text between its lines `<!-- NAME -->` and `<!-- /NAME -->`."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->\n")
    if not begin or not end:
        raise ValueError(f"the page has no place for {name}")
    return f"{before}{begin}{text}\n{end}{after}"


def _origin(name: str, machine: dict[str, Any] | None) -> str:
    file = f"[bench/results/{name}.json](../bench/results/{name}.json)"
    if machine is None:
        return f"All figures: {file}."
    hardware = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    return f"{machine['date']}, {hardware}; {versions}. All figures: {file}."


def met(value: float, target: str) -> bool:
    """Return whether a value meets `<= 1.05` or `>= 1`."""
    sign, number = target.split()
    return value <= float(number) if sign == "<=" else value >= float(number)


def main() -> None:
    """Write the page, or end with status 1 where a target is missed and `--strict` is given."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    OUT.write_text(page(results))
    if "export" in results:
        path = DOCS / "export.md"
        table = export_table(results["export"])
        path.write_text(replace_marked(path.read_text(), "bench/export.py", table))
    missed = [
        f"{name}: {key} is {value}, target {result['targets'][key]}"
        for name, result in results.items()
        for key, value in result.get("ratios", {}).items()
        if key in result.get("targets", {}) and not met(value, result["targets"][key])
    ]
    print("\n".join([f"Written: {OUT}", *missed]))
    if missed and "--strict" in sys.argv[1:]:
        sys.exit(1)


if __name__ == "__main__":
    main()
