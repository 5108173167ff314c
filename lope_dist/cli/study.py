"""`lope study`: many runs from one file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption
from lope_dist.core.errors import Preempted

app = typer.Typer()
study = typer.Typer(no_args_is_help=True)
app.add_typer(study, name="study", help="Many runs and their comparison from one file.")

StudyArg = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of a study.")]


@study.callback()
def group() -> None:
    """Many runs and their comparison from one file."""


@study.command()
def run(
    study: StudyArg,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time.")] = 1,
    stop_after: Annotated[
        str | None,
        typer.Option(help="Stop after this time, e.g. 10m. The same command continues."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="CELL",
            help="Only cells with this name or pattern, and the tries that choose their settings.",
        ),
    ] = None,
    redo_changed: Annotated[
        bool,
        typer.Option(
            "--redo-changed", help="Remove and run again cells whose description changed."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train and score the missing cells of a study. Continues where it stopped.

    Example: lope study run smollm2_quick --jobs 2
    """
    from lope_dist.study.load import load_study
    from lope_dist.study.run import RunRequest, parse_duration, run_study

    seconds = None if stop_after is None else parse_duration(stop_after)
    loaded = load_study(study)
    outcome = run_study(loaded, RunRequest(jobs, seconds, only, redo_changed))
    if as_json:
        typer.echo(json.dumps({"output_dir": str(loaded.folder)} | asdict(outcome), indent=2))
    else:
        counts = f"{len(outcome.done)} cells done, {len(outcome.failed)} failed"
        typer.echo(f"{loaded.folder}: {counts}, {len(outcome.left)} left")
    if outcome.left:
        raise Preempted(
            f"Stopped with {len(outcome.left)} cells left; the same command continues from there."
        )
    if outcome.failed:
        raise typer.Exit(1)


@study.command()
def report(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="YAML files of studies.")
    ],
    docs: Annotated[
        Path | None,
        typer.Option(help="Write a page of each study into this folder's results instead."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a study's tables, plots and verdicts on its claims into its folder.

    Example: lope study report smollm2_quick
    """
    from lope_dist.study.load import load_study
    from lope_dist.study.published import publish
    from lope_dist.study.report import write_study_report

    loaded = [load_study(path) for path in studies]
    if docs is None:
        written = [write_study_report(study) for study in loaded]
    else:
        written = [publish(study, docs) for study in loaded]
    if as_json:
        typer.echo(json.dumps([str(path) for path in written]))
    else:
        for path in written:
            typer.echo(f"Written: {path}")
