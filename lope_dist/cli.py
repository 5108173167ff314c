"""The `lope` command. Heavy imports happen inside the verbs, after the config is checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.core.errors import LopeError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Noise-robust LoRA fine-tuning of quantized models with a poisoning expert (LoPE).",
)

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML recipe.")]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. adapter.rank=8."),
]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def train(
    config: ConfigArg,
    overrides: OverridesArg = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last whole checkpoint.")] = False,
) -> None:
    """Train all stages in this process; launch/train.py does it on many."""
    from lope_dist.config.load import load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.train.session import train as run

    folder = run(resolved, resume=resume)
    typer.echo(f"Done: {folder}")


@app.command()
def check(config: ConfigArg, overrides: OverridesArg = None) -> None:
    """Check a recipe without reading weights: keys, model, targets, noise; print it resolved."""
    from lope_dist.config.load import dump_config, load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.train.preflight import preflight

    preflight(resolved)
    typer.echo(dump_config(resolved), nl=False)


@app.command()
def params(config: ConfigArg, overrides: OverridesArg = None, as_json: JsonOption = False) -> None:
    """Count parameters by role and stage, the paper's way and whole."""
    from lope_dist.config.load import load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.train.params import count_run

    counts = count_run(resolved)
    if as_json:
        typer.echo(json.dumps(counts, indent=2))
    else:
        from lope_dist.report.tables import print_counts

        print_counts(counts)


@app.command()
def plan(
    config: ConfigArg,
    world_size: Annotated[int, typer.Option(help="Ranks, over all nodes.")],
    overrides: OverridesArg = None,
    gpu_memory: Annotated[str, typer.Option(help="Memory of each device.")] = "80GiB",
    node_memory: Annotated[str | None, typer.Option(help="Host memory of each node.")] = None,
    ranks_per_node: Annotated[int, typer.Option(help="Ranks of a full node.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Say what a run will take of memory and network, and how to shard it; reads no weights."""
    from lope_dist.config.load import load_config
    from lope_dist.core.memory import parse_bytes

    gpu = parse_bytes(gpu_memory, "--gpu-memory")
    node = None if node_memory is None else parse_bytes(node_memory, "--node-memory")
    resolved = load_config(config, overrides or ())
    from lope_dist.train.sizing import plan_run

    figures = plan_run(
        resolved,
        world_size=world_size,
        gpu_memory=gpu,
        node_memory=node,
        ranks_per_node=ranks_per_node,
    )
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        from lope_dist.report.plan import print_plan

        print_plan(figures)


@app.command(name="eval")
def evaluate(
    run: RunArg,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks or groups, comma-separated.")],
    experts: Annotated[
        str, typer.Option(help="Rows to score: masked, masked_plain, all, none (the base).")
    ] = "masked",
    include_path: Annotated[
        str | None, typer.Option(help="Folder of task YAMLs to use instead of lm-eval's own.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples in the prompt.")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Documents of each task, or a share below 1.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Requests of a forward pass.")] = 8,
    apply_chat_template: Annotated[bool, typer.Option(help="Wrap prompts in it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score a run through lm-eval, masked or not, beside its base model."""
    from lope_dist.evaluate.suite import EvalRequest, evaluate_run

    request = EvalRequest(
        tasks=tuple(tasks.split(",")),
        experts=tuple(experts.split(",")),
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        apply_chat_template=apply_chat_template,
    )
    results = evaluate_run(run, request)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        from lope_dist.report.tables import print_results

        print_results(results)


@app.command()
def report(run: RunArg) -> None:
    """Write report.html with plots and tables of a run."""
    from lope_dist.report.html import write_report

    typer.echo(f"Written: {write_report(run)}")


def main() -> None:
    """Run the command; bad input ends with one sentence and status 2."""
    try:
        app()
    except LopeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
