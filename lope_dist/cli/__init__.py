"""The `lope` command, a file a group of verbs.

Heavy imports happen inside the verbs, after the config is checked.
"""

from __future__ import annotations

import sys

import typer

from lope_dist.cli import (
    corpus,
    data,
    doctor,
    export,
    likelihood,
    noise,
    repro,
    results,
    study,
    training,
)
from lope_dist.core.errors import EXIT_USER_ERROR, LopeError, Preempted

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Noise-robust LoRA fine-tuning of quantized models with a poisoning expert (LoPE).",
)
for group in (training, data, corpus, noise, results, likelihood, study, export, doctor, repro):
    app.add_typer(group.app)


def main() -> None:
    """Run the command; bad input ends with one sentence and status 2, a stop with 75.

    So does what the system refuses, such as a folder that may not be written: its own words name
    the file.
    """
    try:
        app()
    except Preempted as stop:
        typer.echo(stop, err=True)
        sys.exit(stop.status)
    except LopeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.status)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        typer.echo(f"error: {where}{error.strerror}", err=True)
        sys.exit(EXIT_USER_ERROR)
