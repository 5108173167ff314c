"""`lope data`: what a run learns from its rows, before any of them is trained on."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from lope_dist.cli.options import ConfigArg, JsonOption, OverridesArg

data = typer.Typer(
    no_args_is_help=True, help="Show what a run learns from its rows, and count them."
)
app = typer.Typer()
app.add_typer(data, name="data")


@data.command()
def show(
    config: ConfigArg,
    overrides: OverridesArg = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Examples to show.")] = 5,
    row: Annotated[
        int | None, typer.Option(help="The first row to show: its number in its file, from 1.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Add the text noise that this stage injects.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print rows as tokens, with the learnt tokens and the changes by noise marked.

    Example: lope data show recipe.yaml -n 3
    """
    from lope_dist.config.load import load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.corpus.show import example_lines
    from lope_dist.train.premises.data import shown_rows

    examples = shown_rows(resolved, row=row, count=count, stage=stage)
    if as_json:
        typer.echo(json.dumps(examples, indent=2, ensure_ascii=False))
        return
    for example in examples:
        typer.echo("\n".join(example_lines(example, colours=sys.stdout.isatty())))


@data.command()
def stats(config: ConfigArg, overrides: OverridesArg = None, as_json: JsonOption = False) -> None:
    """Read, render and count all rows. A run prints the same table at its start.

    Example: lope data stats recipe.yaml
    """
    from lope_dist.config.load import load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.train.premises.data import survey_rows

    figures, lines = survey_rows(resolved)
    typer.echo(json.dumps(figures, indent=2) if as_json else "\n".join(lines))
