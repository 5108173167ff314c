"""YAML layers and dotted overrides -> a validated `RunConfig`, or one clear sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from lope_dist.config.base import Section
from lope_dist.config.explain import explain
from lope_dist.config.file_kinds import other_kind
from lope_dist.config.layers import Layer, check_description, merge, read_layers
from lope_dist.config.reading import parsing, reading
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError, suggest

_REPLACED_WHOLE = ("model.architecture", "train.stages")
"""Keys whose override leaves nothing of what was there: an architecture is of one model, and who
lists stages lists all of them."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, its `include` layers and the overrides.

    Later layers win: files of `include` in order (paths relative to the including file),
    then the file itself, then each `dotted.key=value`.

    Raises:
        LopeError: unreadable file, YAML error, malformed override, unknown key or
            impossible value.
    """
    with reading(path):
        return configured(read_layers(Path(path)), overrides, str(path))


def configured(layers: Sequence[Layer], overrides: Sequence[str], source: str) -> RunConfig:
    """Return what layers and overrides say together; errors name ``source``.

    Raises:
        LopeError: as `load_config`.
    """
    merged = merge(layers)
    of_stages = [o for o in overrides if o.strip().startswith("train.stages.")]
    for override in overrides:
        if override not in of_stages:
            _apply(merged, override)
    if of_stages and OmegaConf.select(merged, "train.stages") is None:
        # Written out, so that one key of a default stage can be overridden.
        default = validate_config(_resolved(merged, source), source)
        stages = default.train.model_dump(mode="json")["stages"]
        OmegaConf.update(merged, "train.stages", stages, force_add=True)
    for override in of_stages:
        _refuse_unknown_stage(merged, override, of_stages)
    for override in of_stages:
        _apply(merged, override)
    config = validate_config(_resolved(merged, source), source)
    check_description(layers, overrides, config.model.name_or_path)
    return config


def split_resume(
    resume: bool, overrides: Sequence[str]
) -> tuple[bool | Literal["auto"], list[str]]:
    """Return what `--resume` and `--resume auto` mean, and the overrides alone.

    The word may be among the overrides, because a flag with an optional value would take the
    first override for it.
    """
    rest = list(overrides)
    if resume and "auto" in rest:
        rest.remove("auto")
        return "auto", rest
    return resume, rest


def validate_config(tree: Any, source: str) -> RunConfig:
    """Validate a plain tree; errors name ``source`` and the key."""
    return validate_section(RunConfig, tree, source)


S = TypeVar("S", bound=Section)


def validate_section(section: type[S], tree: Any, source: str) -> S:
    """Validate one section by itself, for commands that need no whole recipe.

    Raises:
        LopeError: an unknown key or an impossible value, or a file of another kind.
    """
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        if (sentence := other_kind(tree, {*section.model_fields}, source)) is not None:
            raise LopeError(sentence) from None
        raise LopeError(f"{source}: {explain(error, section)}") from None


def dump_config(config: RunConfig) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_section(section: type[S], path: str | Path) -> S:
    """Read a file of another kind than a recipe, with its `include` layers, and validate it.

    Raises:
        LopeError: unreadable file, YAML error, unknown key or impossible value.
    """
    with reading(path):
        tree = _resolved(merge(read_layers(Path(path))), path)
    return validate_section(section, tree, str(path))


def _resolved(tree: DictConfig, path: str | Path) -> Any:
    with parsing(str(path)):
        return OmegaConf.to_container(tree, resolve=True)


def _refuse_unknown_stage(tree: DictConfig, override: str, overrides: Sequence[str]) -> None:
    """Refuse a setting of a stage that is not there and that no override makes.

    Raises:
        LopeError: names the stages.
    """
    path = override.partition("=")[0].strip().split(".")
    stages = OmegaConf.select(tree, "train.stages")
    stage_names = [str(stage) for stage in stages] if isinstance(stages, DictConfig) else []
    name = path[2] if len(path) > 3 else None
    made = f"train.stages.{name}.trainable="
    if name is None or name in stage_names or any(o.strip().startswith(made) for o in overrides):
        return
    raise LopeError(
        f"Override '{override}': there is no stage '{name}'; stages are {', '.join(stage_names)}."
        f"{suggest(name, stage_names)} A new stage needs train.stages.{name}.trainable."
    )


def _apply(tree: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise LopeError(
            f"Override '{override}' is not of the form key.subkey=value, "
            "for example train.global_batch=16."
        )
    with parsing(
        f"Override '{override}' cannot be applied (one with spaces in it stands in quotes: "
        "'data.columns={instruction: question}')"
    ):
        value: Any = OmegaConf.to_container(
            OmegaConf.from_dotlist([f"v={override[len(key) + 1 :]}"])
        )
        merge = key.strip() not in _REPLACED_WHOLE
        OmegaConf.update(tree, key.strip(), value["v"], merge=merge, force_add=True)
