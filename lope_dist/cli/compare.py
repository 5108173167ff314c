"""`lope compare`: which method is best on the user's rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import ConfigArg, JsonOption, OverridesArg, show

app = typer.Typer()


@app.command()
def compare(
    config: ConfigArg,
    overrides: OverridesArg = None,
    minutes: Annotated[float, typer.Option(min=1, help="The command ends within this time.")] = 40,
    rows: Annotated[int, typer.Option(min=1, help="Most rows of the sample.")] = 600,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of all runs. Default: output_dir with `_compare` appended."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare LoRA, HydraLoRA and LoPE on a sample of your rows, and recommend one.

    All three take the same steps on the same rows. The learning rate of each is chosen from the
    same few, on held-out rows. Other held-out rows decide the comparison. The same command
    continues where it stopped; more minutes add seeds.

    Example: lope compare recipe.yaml --minutes 40
    """
    began = time.monotonic()  # before the slow imports: their time counts too
    from lope_dist.config.load import load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.study.compare_methods import CompareRequest, compare_methods

    folder = out or Path(f"{resolved.output_dir.rstrip('/')}_compare")
    comparison = compare_methods(
        resolved, CompareRequest(minutes, rows, folder, time.monotonic() - began)
    )
    from lope_dist.report.comparison import print_comparison

    show(comparison, as_json, print_comparison)
