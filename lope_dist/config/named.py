"""A model by its name, in the place of a recipe: what of it needs no data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from lope_dist.config.layers import Layer
from lope_dist.config.load import configured, load_config
from lope_dist.config.reading import reading
from lope_dist.config.schema import RunConfig
from lope_dist.core.shipped import shipped_config

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_NO_DATA = "(a model alone, without data)"


def is_model_name(text: str) -> bool:
    """Return whether this is a model's folder, a package or a name on the hub, and no recipe."""
    path = Path(text).expanduser()
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return False
    if path.is_dir():
        return True
    if shipped_config(text) is not None:
        return False
    return text.startswith("package:") or bool(_HUB_NAME.fullmatch(text))


def load_recipe_or_model(text: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a recipe's configuration, or that of a model with every default.

    Raises:
        LopeError: as `load_config`.
    """
    if not is_model_name(str(text)):
        return load_config(text, overrides)
    tree = {
        "output_dir": "runs/unnamed",
        "model": {"name_or_path": str(text)},
        "data": {"path": _NO_DATA},
        "train": {},
    }
    with reading(text):
        return configured([Layer(Path(str(text)), OmegaConf.create(tree))], overrides, str(text))


def has_data(config: RunConfig) -> bool:
    """Return whether the configuration is a recipe's, or a model's with data given."""
    return config.data.path != _NO_DATA
