"""`lope train`, `check`, `params` and `plan`: from a recipe to a run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lope_dist.cli.options import ConfigArg, JsonOption, OverridesArg, TargetArg, show
from lope_dist.core.console import open_console

app = typer.Typer()


@app.command()
def train(
    config: ConfigArg,
    overrides: OverridesArg = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last whole checkpoint; --resume auto: or start anew without one.",
        ),
    ] = False,
    accept_data_change: Annotated[
        bool,
        typer.Option(
            "--accept-data-change",
            help="With --resume: go on although rows were changed, as when a bad one was mended.",
        ),
    ] = False,
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE=N",
            help="Go on with the run in the folder until the stage has N epochs in all, or N steps "
            "where it has max_steps.",
        ),
    ] = None,
) -> None:
    """Train all stages in this process. `lope launch train` uses several.

    Example: lope train recipe.yaml train.global_batch=16
    """
    from lope_dist.config.load import load_config, split_resume

    mode, rest = split_resume(resume, overrides or ())
    resolved = load_config(config, rest)
    with open_console():
        from lope_dist.train.session import train as run

        folder = run(resolved, resume=mode, accepts_other_data=accept_data_change, extend=extend)
    typer.echo(f"Done: {folder}")


@app.command()
def check(
    config: TargetArg,
    overrides: OverridesArg = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print the resolved configuration as YAML.")
    ] = False,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Do not read the rows of local data.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a recipe or a model and print the premises of a run. Reads no weights.

    Example: lope check recipe.yaml data.path=rows.jsonl
    """
    from lope_dist.config.load import dump_config
    from lope_dist.config.named import has_data, load_recipe_or_model

    resolved = load_recipe_or_model(config, overrides or ())
    from lope_dist.train.check import check_run

    premises = check_run(resolved, has_data=has_data(resolved), reads_rows=not no_data)
    if as_json:
        whole = {"config": resolved.model_dump(mode="json")} if full else {}
        typer.echo(json.dumps(premises.as_json() | whole, indent=2))
        return
    mark = "# " if full else ""  # so that what is printed is a recipe
    if full:
        typer.echo(dump_config(resolved), nl=False)
    for line in [*premises.lines(), f"{premises.verdict}: {config}"]:
        typer.echo(f"{mark}{line}")


@app.command()
def params(config: TargetArg, overrides: OverridesArg = None, as_json: JsonOption = False) -> None:
    """Count parameters by role and stage, as in the paper and in total.

    Example: lope params qwen3_8b
    """
    from lope_dist.config.named import load_recipe_or_model

    resolved = load_recipe_or_model(config, overrides or ())
    from lope_dist.train.premises.params import count_run

    counts = count_run(resolved)
    from lope_dist.report.tables import print_counts

    show(counts, as_json, print_counts)


@app.command()
def plan(
    config: TargetArg,
    world_size: Annotated[int, typer.Option(help="Ranks on all nodes together.")],
    overrides: OverridesArg = None,
    gpu_memory: Annotated[
        str, typer.Option(help="Memory of each device: 80GiB, 24GB, or a number of GiB.")
    ] = "80GiB",
    node_memory: Annotated[str | None, typer.Option(help="Host memory of each node.")] = None,
    ranks_per_node: Annotated[int, typer.Option(help="Ranks of a full node.")] = 8,
    tflops: Annotated[float, typer.Option(help="Sustained TFLOP/s of a device.")] = 400.0,
    memory_gbs: Annotated[float, typer.Option(help="GB/s of a device's own memory.")] = 3350.0,
    node_gbs: Annotated[float, typer.Option(help="GB/s a rank receives inside a node.")] = 300.0,
    network_gbs: Annotated[float, typer.Option(help="GB/s a node receives from others.")] = 50.0,
    as_json: JsonOption = False,
) -> None:
    """Estimate the memory, network traffic and time of a run, and recommend how to shard it.

    Reads no weights. The default speeds are those of H100 nodes. The status is 1 if the run fits
    under neither ZeRO stage.

    Example: lope plan qwen3_8b --world-size 8 --gpu-memory 24GiB
    """
    from lope_dist.config.named import load_recipe_or_model
    from lope_dist.core.memory import parse_bytes

    gpu = parse_bytes(gpu_memory, "--gpu-memory")
    node = None if node_memory is None else parse_bytes(node_memory, "--node-memory")
    resolved = load_recipe_or_model(config, overrides or ())
    from lope_dist.engine.speed import Hardware
    from lope_dist.evaluate.loaded.sizing import plan_answers
    from lope_dist.train.premises.sizing import plan_run

    hardware = Hardware(tflops, memory_gbs, node_gbs, network_gbs)
    figures = plan_run(
        resolved,
        world_size=world_size,
        gpu_memory=gpu,
        node_memory=node,
        ranks_per_node=ranks_per_node,
        hardware=hardware,
    )
    figures["evaluation"] = plan_answers(
        resolved.model,
        world_size=world_size,
        gpu_memory=gpu,
        ranks_per_node=ranks_per_node,
        hardware=hardware,
    )
    from lope_dist.report.plan import print_plan

    show(figures, as_json, print_plan)
    if figures["recommendation"]["zero_stage"] is None:
        raise typer.Exit(1)
