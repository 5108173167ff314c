"""What `lope plan` prints: one rank's bytes under both ZeRO stages, and the advice."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from lope_dist.core.memory import format_bytes
from lope_dist.report.tables import console_table

_MEMORY = {
    "base_weights": "base weights",
    "statistics": "quantization statistics",
    "adapters": "adapters, float32",
    "gradients": "gradients",
    "optimizer": "optimizer (AdamW)",
    "gathered": "weights gathered at once",
    "activations": "activations",
    "logits": "logits and loss",
    "working": "short-lived tensors",
}
_OTHER = {
    "activations_checkpointed": "activations, with checkpointing",
    "activations_whole": "activations, without",
    "load_peak": "peak while loading",
    "host_per_node": "host memory of a node",
    "host_per_node_cpu": "the same, computing on CPU",
}
_WIRE = {"wire_base": "received a step: base", "wire_adapters": "received a step: adapters"}


def _plan_table(plan: dict[str, Any]) -> Table:
    """Return the figures of `lope plan --json` as a rich table."""
    title = (
        f"Each of {plan['world_size']} ranks: micro-batch {plan['micro_batch']} x "
        f"{plan['max_length']} tokens"
    )
    head = ("", "ZeRO-2 (replicate)", "ZeRO-3 (shard)")
    table = console_table(title, head, title_justify="left")
    _add_rows(table, plan, _MEMORY)
    table.add_section()
    _add_rows(table, plan, {"total": "[bold]peak of a training step[/bold]"})
    table.add_section()
    _add_rows(table, plan, _OTHER)
    table.add_section()
    _add_rows(table, plan, _WIRE)
    return table


def print_plan(plan: dict[str, Any]) -> None:
    """Print the table and the recommendation."""
    console = Console(highlight=False)
    weights = plan["quantized_weights"] + plan["unquantized_weights"]
    console.print(
        f"Model: {weights:,} parameters; adapters: {plan['adapter_parameters']:,}",
        plan["quantization"],
        _plan_table(plan),
        sep="\n",
        soft_wrap=True,
    )
    if plan["activations_bound"]:
        console.print(
            f"Activations are an upper bound: {plan['activations_bound']}.", soft_wrap=True
        )
    advice = plan["recommendation"]
    if advice["zero_stage"] is None:
        console.print("[bold]Does not fit.[/bold]", advice["why"], soft_wrap=True)
        console.print("What would help:", "; ".join(advice["helps"]), soft_wrap=True)
        return
    shard = " engine.shard=node" if advice["shard"] == "node" else ""
    console.print(
        f"[bold]Recommended: engine.zero_stage={advice['zero_stage']}{shard} "
        f"train.micro_batch={advice['micro_batch']} model.gradient_checkpointing="
        f"{str(advice['gradient_checkpointing']).lower()}[/bold] (accumulation over "
        f"{advice['accumulation_steps']} for a global batch of {plan['global_batch']}).",
        advice["why"],
        soft_wrap=True,
    )
    console.print(_choices_table(plan))
    console.print(
        "Computed from stated speeds, to rank the choices; no measurement.", soft_wrap=True
    )
    console.print(_evaluation_line(plan["evaluation"]), soft_wrap=True)


def _evaluation_line(answers: dict[str, Any]) -> str:
    """Return what scoring and generating take of each rank, in a sentence or two."""
    whole, sharded = (format_bytes(answers[key]) for key in ("whole", "sharded"))
    takes = f"Evaluation takes {whole} of each rank with a whole base"
    if answers["world_size"] == 1:
        return f"{takes}{'' if answers['base'] else ', which does not fit'}."
    costs = (
        f"each forward pass, and so each generated token, then receives "
        f"{format_bytes(answers['wire'])} in {answers['gather_s']:.2g} s"
    )
    chosen = answers["base"]
    does = f"--base auto keeps it {chosen}" if chosen else "neither fits"
    return f"{takes} and {sharded} with a sharded one ({costs}); {does}."


def _choices_table(plan: dict[str, Any]) -> Table:
    """Return all ways that fit, the fastest first, as a rich table."""
    speeds = plan["hardware"]
    title = (
        f"What fits, at {speeds['tflops']:g} TFLOP/s, {speeds['memory_gbs']:g} GB/s of memory, "
        f"{speeds['node_gbs']:g} GB/s inside a node and {speeds['network_gbs']:g} between nodes (s)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("rows", "peak", "compute", "gathers", "step", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for choice in plan["recommendation"]["choices"]:
        speed = choice["speed"]
        inside = " in nodes" if choice["shard"] == "node" else ""
        recomputes = " recomputing" if choice["gradient_checkpointing"] else ""
        table.add_row(
            f"ZeRO-{choice['zero_stage']}{inside}{recomputes}",
            f"{choice['micro_batch']} x {choice['accumulation_steps']}",
            format_bytes(choice["total"]),
            *(f"{speed[key]:.3g}" for key in ("compute_s", "gather_s", "step_s")),
            f"{speed['tokens_per_s']:,.0f}",
        )
    return table


def _add_rows(table: Table, plan: dict[str, Any], rows: dict[str, str]) -> None:
    for key, label in rows.items():
        table.add_row(label, *(format_bytes(plan[stage][key]) for stage in ("zero2", "zero3")))
