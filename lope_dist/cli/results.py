"""`lope eval` and `report`: what a run is worth."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption, RunArg

app = typer.Typer()


@app.command(name="eval")
def evaluate(
    run: RunArg,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks or groups, comma-separated.")],
    experts: Annotated[
        str,
        typer.Option(
            help="Rows to score, comma-separated: masked, masked_plain, masked_normal, all, base; "
            "with settings behind them, e.g. all:scale=0.75 or masked:mode=unit:k=2."
        ),
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
