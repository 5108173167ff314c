"""The files of a recipe, in the order in which they win, and what of them belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lope_dist.core.errors import LopeError

_TOGETHER = ("model", "model.name_or_path", "model.architecture")
"""Keys whose overrides say together which model it is, in any order."""


class Layer(NamedTuple):
    """One file without its `include`."""

    path: Path
    tree: DictConfig


def read_layers(path: Path, parents: tuple[Path, ...] = ()) -> list[Layer]:
    """Return a file and all that it includes; later ones win.

    Raises:
        LopeError: a file that is absent, no YAML, no mapping or includes itself.
    """
    if path.resolve() in parents:
        chain = " -> ".join(str(p) for p in (*parents, path.resolve()))
        raise LopeError(f"{path}: files include each other in a circle: {chain}.")
    if not path.is_file():
        raise LopeError(f"Config '{path}' is not a file; give the path of a YAML recipe.")
    try:
        tree = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise LopeError(f"{path} is not valid YAML: {first_line(error)}.") from None
    if not isinstance(tree, DictConfig):
        raise LopeError(f"{path}: the top level must be a mapping of keys to values.")
    include = tree.pop("include", [])
    if isinstance(include, str):
        include = [include]
    layers: list[Layer] = []
    for entry in include or []:
        layers += read_layers(path.parent / entry, (*parents, path.resolve()))
    return [*layers, Layer(path, tree)]


def merge(layers: Sequence[Layer]) -> DictConfig:
    """Return one tree. An architecture with a `model_type` replaces another model's whole."""
    merged = OmegaConf.create()
    for layer in layers:
        if _states_a_model(_model(layer)) and isinstance(merged.get("model"), DictConfig):
            merged.model.pop("architecture", None)
        merged = OmegaConf.merge(merged, layer.tree)
    assert isinstance(merged, DictConfig)
    return merged


def check_description(layers: Sequence[Layer], overrides: Sequence[str], name: str) -> None:
    """Refuse an architecture that a layer gives to one model and a later one leaves to another.

    A folder is not refused: its own `config.json` is compared with the architecture.

    Args:
        layers: The files, in order.
        overrides: What the command line says after them.
        name: The resolved `model.name_or_path`.

    Raises:
        LopeError: `model.name_or_path` was changed after `model.architecture` was given.
    """
    together = [each for each in overrides if each.partition("=")[0].strip() in _TOGETHER]
    last = Layer(Path("the command line"), OmegaConf.from_dotlist(together))
    current = described = source = None
    for layer in (*layers, last):
        model = _model(layer)
        current = model.get("name_or_path") or current
        if _states_a_model(model):
            described, source = current, layer.path if model["architecture"] else None
        described = described or current
    if source and described != current and not Path(name).expanduser().is_dir():
        raise LopeError(
            f"model.architecture in {source} is that of '{described}', and model.name_or_path is "
            f"'{name}'; add model.architecture=null to read that model's own config.json, or give "
            "its architecture."
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without its full stop."""
    return str(error).strip().splitlines()[0].rstrip(".")


def _model(layer: Layer) -> dict[str, Any]:
    """Return a layer's `model`, with `${...}` as it is written: it may name a secret."""
    tree: Any = OmegaConf.to_container(layer.tree)
    model = tree.get("model")
    return model if isinstance(model, dict) else {}


def _states_a_model(model: dict[str, Any]) -> bool:
    """Return whether a layer's `model` gives a whole architecture, or takes one away."""
    architecture = model.get("architecture")
    is_whole = isinstance(architecture, dict) and "model_type" in architecture
    return "architecture" in model and (architecture is None or is_whole)
