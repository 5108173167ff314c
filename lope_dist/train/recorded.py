"""A run's own `run.yaml`, read as the version that wrote it meant it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lope_dist.config.load import load_config
from lope_dist.config.schema import RunConfig
from lope_dist.train.descriptions import read_recorded


def load_recorded(path: Path) -> RunConfig:
    """Read a `run.yaml`; what it leaves to a default that has changed since is as it was.

    Every version writes all keys, so that a key is absent from files of older ones alone.

    Raises:
        LopeError: what `load_config` raises.
    """
    return load_config(path, _of_its_time(read_recorded(path.read_bytes()) or {}))


def _of_its_time(recorded: dict[str, Any]) -> list[str]:
    """Return overrides for what another version took for granted."""
    adapter = recorded.get("adapter", {})
    if not isinstance(adapter, dict) or adapter.get("kind", "lope") != "lope":
        return []
    compensation = adapter.get("compensation", {})
    if not isinstance(compensation, dict):
        return []
    if "mode" not in compensation:
        return ["adapter.compensation.mode=conserve"]  # the default until it became `none`
    if compensation["mode"] == "none" and compensation.get("top_k") is not None:
        return ["adapter.compensation.top_k=null"]  # without effect, and once allowed
    return []
