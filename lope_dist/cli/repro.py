"""`lope repro`: does a repeat of a run give the same losses?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption, RunArg

app = typer.Typer()


@app.command()
def repro(
    run: RunArg,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each stage to repeat.")] = 5,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks on this host. Default: the recorded number.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each stage.")] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Train a run's first steps again and compare each loss with the recorded one.

    Example: lope repro runs/mine --steps 5
    """
    from lope_dist.train.repeat import TOLERANCE, repeat

    result = repeat(run, steps, ranks, timeout)
    if as_json:
        typer.echo(json.dumps(asdict(result) | {"ok": result.ok}, indent=2))
    else:
        for difference in result.differs_in:
            typer.echo(f"not as recorded: {difference}")
        asked = "to the last bit" if result.exact else f"to {TOLERANCE:g}"
        counts = ", ".join(f"{stage} {num}" for stage, num in result.num_compared.items())
        if result.ok:
            typer.echo(f"✓ the same losses {asked} (steps: {counts})")
        else:
            typer.echo(
                f"✗ losses differ by up to {result.worst:.1e} (relative; {result.where}), where "
                f"they should be equal {asked} (steps: {counts})"
            )
    if not result.ok:
        raise typer.Exit(1)
