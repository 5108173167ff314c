"""`lope init`: a recipe from a model and rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.core.errors import LopeError

app = typer.Typer()

_OF_A_HOST = 8
"""GPUs that a host is taken to have where this machine has none, as in `lope plan`."""


@app.command()
def init(
    recipe: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    model: Annotated[
        str | None, typer.Option(help="The base model: a name on the hub, or a folder.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Your rows: a file or a folder.")] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(help="The run's folder. Default: runs/NAME, with the recipe's name."),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs of all hosts together. Default: those of this machine."),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0, help="GiB of each GPU. Default: that of this machine.")
    ] = None,
) -> None:
    """Write a short recipe for your rows; asks for model and data if they are not given.

    It reads the rows and the tokenizer, and no weights.

    Example: lope init mine.yaml --model Qwen/Qwen3-8B --data rows.jsonl
    """
    if recipe.exists():
        raise LopeError(f"{recipe} exists; give another name, or remove it.")
    model = model or _asked("Base model (a name on the hub, or a folder)", "--model")
    data = data or _asked("Your rows (a file or a folder)", "--data")
    from lope_dist.train.new_recipe import Machine, new_recipe, write_recipe

    here = Machine.here()
    has_gpu = here.gib > 0
    if devices is not None and gpu_memory is None and not has_gpu:
        raise LopeError(
            f"--devices {devices}: this machine has no GPU to read the memory of; give "
            "--gpu-memory too, the GiB of each."
        )
    memory = gpu_memory if gpu_memory is not None else here.gib
    is_meant = devices is None and gpu_memory is None  # of another machine precision is not known
    machine = Machine(devices or here.devices, memory, is_meant and here.emulates_bfloat16)
    text = new_recipe(model, data, output_dir or f"runs/{recipe.stem}", machine)
    write_recipe(recipe, text)
    start = f"lope train {recipe}" if machine.devices == 1 else f"lope launch train {recipe}"
    if machine.devices > (here.devices if has_gpu else _OF_A_HOST):
        start += " --hostfile HOSTS"
    typer.echo(f"Wrote {recipe}. Next: lope check {recipe}, then {start}")


def _asked(question: str, option: str) -> str:
    if not sys.stdin.isatty():
        raise LopeError(f"Give {option}; lope init asks for it only on a terminal.")
    return typer.prompt(question)
