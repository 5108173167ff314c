"""A run's own `run.yaml`, read as the version that wrote it meant it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.load import load_config, validate_config
from lope_dist.config.removed import without_removed
from lope_dist.config.schema import RunConfig


def load_recorded(path: Path) -> RunConfig:
    """Read a `run.yaml`; what it leaves to a default that has changed since is as it was.

    Every version writes all keys, so that a key is absent from files of older ones alone.

    Raises:
        LopeError: what `load_config` raises.
    """
    try:
        tree = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        return load_config(path)  # which says what is wrong
    return validate_config(of_its_time(tree), str(path)) if _is_plain(tree) else load_config(path)


def of_its_time(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with what its version took for granted.

    A setting that has been removed since is left out if it was off, and kept to be refused by its
    name if it was on.
    """
    tree = _without_idle_watching(without_removed(tree))
    adapter = tree.get("adapter", {})
    if not isinstance(adapter, dict) or adapter.get("kind", "lope") != "lope":
        return tree
    compensation = adapter.get("compensation", {})
    if not isinstance(compensation, dict):
        return tree
    compensation = {"mode": "conserve"} | compensation  # the default until it became `none`
    if compensation["mode"] == "none":
        compensation["top_k"] = None  # without effect, and once allowed
    return tree | {"adapter": adapter | {"compensation": compensation}}


def _without_idle_watching(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was once allowed: to stop by no loss, or to choose among unpruned ranks."""
    train, adapter = tree.get("train"), tree.get("adapter")
    if not isinstance(train, dict):
        return tree
    evaluate = train.get("evaluate")
    is_evaluated = isinstance(evaluate, dict) and evaluate.get("every_steps") is not None
    idle: tuple[str, ...] = () if is_evaluated else ("early_stopping",)
    if isinstance(adapter, dict) and adapter.get("kind") == "adalora":
        idle = ("early_stopping", "keep_best")
    return tree | {"train": {key: value for key, value in train.items() if key not in idle}}


def _is_plain(tree: Any) -> bool:
    return isinstance(tree, dict) and "include" not in tree
