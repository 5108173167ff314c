"""`lope recipes`: the recipes that come with the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.core.errors import LopeError
from lope_dist.core.shipped import shipped, shipped_config, shipped_names, suggest_shipped

app = typer.Typer()
recipes = typer.Typer(invoke_without_command=True)
app.add_typer(recipes, name="recipes")


@recipes.callback(help="List the shipped recipes and studies, or copy one to change it.")
def list_recipes(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the shipped recipes."""
    if context.invoked_subcommand is not None:
        return
    about = {name: _first_line(shipped(f"configs/{name}.yaml")) for name in shipped_names()}
    if as_json:
        typer.echo(json.dumps(about, indent=2))
        return
    width = max(len(name) for name in about)
    for name, line in about.items():
        typer.echo(f"{name:<{width}}  {line}")


@recipes.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="A name from `lope recipes`.")],
    target: Annotated[
        Path | None, typer.Argument(help="The file to write. Default: NAME.yaml in this folder.")
    ] = None,
) -> None:
    """Write a shipped recipe as one file that you can change, without `include`.

    Example: lope recipes copy qwen3_8b mine.yaml
    """
    import yaml
    from omegaconf import OmegaConf

    from lope_dist.config.layers import merge, read_layers
    from lope_dist.core.files import write_atomic

    source = shipped_config(name)
    if source is None:
        raise LopeError(
            f"There is no shipped recipe '{name}'; `lope recipes` lists them."
            f"{suggest_shipped(name)}"
        )
    if source.is_relative_to(shipped("configs/studies")):
        raise LopeError(
            f"'{name}' is a study, which names other files; run it by its name: "
            f"`lope study run {name}`."
        )
    target = target or Path(source.name)
    if target.exists():
        raise LopeError(f"{target} exists; give another name, or remove it.")
    tree = OmegaConf.to_container(merge(read_layers(source)), resolve=False)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    write_atomic(target, f"# {_first_line(source)}\n# Copied from {name}.\n{text}")
    typer.echo(f"Wrote {target}. Next: lope check {target}")


def _first_line(file: Path) -> str:
    """Return the first line of a recipe's comment."""
    with file.open(encoding="utf-8") as lines:
        first = lines.readline().strip()
    return first.lstrip("# ") if first.startswith("#") else ""
