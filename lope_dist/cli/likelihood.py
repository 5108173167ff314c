"""`lope loss`: what the likelihood of examples tells."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption, RunArg

app = typer.Typer()

DataArg = Annotated[
    str, typer.Argument(metavar="DATA", help="Examples in a form that training reads.")
]
LimitOption = Annotated[int | None, typer.Option(help="The first so many examples.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Rows of a forward pass at most.")]


@app.command()
def loss(
    run: RunArg,
    data: DataArg,
    experts: Annotated[
        str, typer.Option(help="Rows to measure, as in `lope eval`: masked, all, none, ...")
    ] = "masked,all,none",
    limit: LimitOption = None,
    batch_size: BatchOption = 16,
    as_json: JsonOption = False,
) -> None:
    """Measure the loss of held-out responses, masked or not, beside the base model's."""
    from lope_dist.evaluate.losses import LossRequest, measure_losses

    request = LossRequest(data, tuple(experts.split(",")), limit, batch_size)
    table = measure_losses(run, request)
    if as_json:
        typer.echo(json.dumps(table, indent=2))
    else:
        from lope_dist.report.losses import print_losses

        print_losses(table)
