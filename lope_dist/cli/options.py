"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")]
CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="last|best|STEP",
        help="Which checkpoint: the last one, the best one of train.keep_best, that after so many "
        "steps of its stage, or one by its folder's name.",
    ),
]
RunsArg = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
BaseOption = Annotated[
    str,
    typer.Option(
        help="Where the base is under a launcher: whole on each rank, sharded over them, or auto: "
        "whole where that fits."
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(metavar="S", min=1.0, help="How long ranks wait for one that hangs."),
]
