"""The `lope` command, a file a group of verbs.

Heavy imports happen inside the verbs, after the config is checked. Not here: what a verb does; a
notebook calls the same functions without it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lope_dist import __version__
from lope_dist.cli import (
    asking,
    clean,
    compare,
    corpus,
    data,
    doctor,
    export,
    init,
    launch,
    likelihood,
    noise,
    recipes,
    repro,
    results,
    study,
    training,
)
from lope_dist.core.console import show_error
from lope_dist.core.errors import EXIT_USER_ERROR, LopeError, Preempted
from lope_dist.core.exits import end, note_exit
from lope_dist.engine.processes import num_ranks

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    help="Noise-robust LoRA fine-tuning of quantized models with a poisoning expert (LoPE).",
)
_GROUPS = (
    init,
    recipes,
    training,
    compare,
    launch,
    data,
    corpus,
    noise,
    results,
    likelihood,
    asking,
    study,
    clean,
    export,
    doctor,
    repro,
)
"""In the order of `lope --help`."""
for group in _GROUPS:
    app.add_typer(group.app)


@app.callback()
def _lope(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        return
    raise typer.Exit


def main() -> None:
    """Run the command; bad input ends with one sentence and status 2, a stop with 75.

    So does what the system refuses, such as a folder that may not be written: its own words name
    the file.
    """
    try:
        app(prog_name="lope")
    except (Preempted, LopeError) as cause:
        if num_ranks() > 1:
            end(cause)
        note_exit(cause.status, str(cause))
        show_error(f"error: {cause}" if isinstance(cause, LopeError) else str(cause))
        sys.exit(cause.status)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        show_error(f"error: {where}{error.strerror}")
        sys.exit(EXIT_USER_ERROR)
