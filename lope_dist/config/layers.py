"""The files of a recipe, in the order in which they win, and what of them belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lope_dist.config.reading import parsing
from lope_dist.core.errors import LopeError
from lope_dist.core.shipped import shipped_config, suggest_shipped

_TOGETHER = ("model", "model.name_or_path", "model.architecture")
"""Keys whose overrides say together which model it is, in any order."""
_MOST_FILES = 256
"""A recipe and its layers; files that include one another twice are soon a million."""


class Layer(NamedTuple):
    """One file without its `include`."""

    path: Path
    tree: DictConfig


def read_layers(path: Path) -> list[Layer]:
    """Return a file and all that it includes; later ones win.

    Raises:
        LopeError: a file that is absent, no YAML, no mapping or includes itself, or files that
            include one another over and over.
    """
    layers: list[Layer] = []
    _read_into(layers, path, str(path), (), [])
    return layers


def _read_into(
    layers: list[Layer], path: Path, asked: str, parents: tuple[Path, ...], files: list[Path]
) -> None:
    """Add a file behind those that it includes; ``files`` are all that were opened so far."""
    with parsing(f"{path} is not valid YAML"):
        path = _existing_file(path, asked)
        if path.resolve() in parents:
            chain = " -> ".join(str(p) for p in (*parents, path.resolve()))
            raise LopeError(f"{path}: files include each other in a circle: {chain}.")
        files.append(path)
        if len(files) > _MOST_FILES:
            raise LopeError(
                f"{files[0]} includes, by itself and through what it includes, more than "
                f"{_MOST_FILES} files; include each layer once."
            )
        tree = OmegaConf.load(path)
    if not isinstance(tree, DictConfig):
        raise LopeError(f"{path}: the top level must be a mapping of keys to values.")
    for name in _included(tree, path):
        _read_into(layers, path.parent / name, name, (*parents, path.resolve()), files)
    layers.append(Layer(path, tree))


def _existing_file(path: Path, asked: str) -> Path:
    """Return the file, or the shipped one of that name where there is none.

    Raises:
        LopeError: neither is there.
    """
    if path.is_file():
        return path
    if (shipped := shipped_config(asked)) is not None:
        return shipped
    raise LopeError(
        f"Config '{path}' is not a file, and no shipped recipe has the name '{asked}'; "
        f"`lope recipes` lists those.{suggest_shipped(asked)}"
    )


def _included(tree: DictConfig, path: Path) -> list[str]:
    """Take the names of a file's layers out of its tree."""
    with parsing(f"{path}: include"):
        names: Any = tree.get("include")
        if OmegaConf.is_config(names):
            names = OmegaConf.to_container(names, resolve=True)
        tree.pop("include", None)
        names = [names] if isinstance(names, str) else names or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LopeError(f"{path}: include takes the name of a file, or a list of such names.")
        return names


def merge(layers: Sequence[Layer]) -> DictConfig:
    """Return one tree. An architecture with a `model_type` replaces another model's whole."""
    merged: Any = OmegaConf.create()
    for layer in layers:
        with parsing(str(layer.path)):
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
