"""What several verbs share: their arguments, and how they show a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML recipe.")]
TargetArg = Annotated[
    str,
    typer.Argument(metavar="CONFIG|MODEL", help="YAML recipe, or a model's name or folder."),
]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. adapter.rank=8."),
]
DataArg = Annotated[
    str, typer.Argument(metavar="DATA", help="File of examples that training could read.")
]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")]
CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="last|best|STEP",
        help="Which checkpoint: the last, the best by train.keep_best, a number of steps "
        "in its stage, or a checkpoint's folder name.",
    ),
]
RunsArg = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Most rows of a forward pass.")]
TruthOption = Annotated[
    str | None,
    typer.Option(help="File whose column 'noise' is the truth. Default: DATA, if it has one."),
]
BaseOption = Annotated[
    str,
    typer.Option(
        help="Under a launcher: the base whole on each rank, sharded over the ranks, or "
        "auto: whole if it fits."
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(metavar="S", min=1.0, help="How long ranks wait for a rank that hangs."),
]


def show(result: Any, as_json: bool, print_result: Callable[[Any], None]) -> None:
    """Print a verb's result, as one JSON object or for people."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        print_result(result)
