"""What every run measures of its model, measured once for all tests of a process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lope_dist.config.schema import RunConfig
from lope_dist.model.source import description_folder, is_package, local_folder


def remembered(measure: Callable[[RunConfig], Any]) -> Callable[[RunConfig], Any]:
    """Return `kept_activations` with a memory; its value says all that it depends on.

    A model of the hub, or with code of its own, is measured each time.
    """
    known: dict[str, Any] = {}

    def look_up(config: RunConfig) -> Any:
        known_here = is_package(config.model.name_or_path) or local_folder(config.model) is not None
        described = description_folder(config.model) / "config.json" if known_here else None
        is_known = config.model.architecture is not None or described is not None
        if not is_known or config.model.trust_remote_code:
            return measure(config)
        parts: dict[str, Any] = {
            "architecture": described.read_text() if described is not None else None,
            "model": config.model.model_dump(mode="json", exclude={"name_or_path"}),
            "adapter": config.adapter.model_dump(mode="json"),
            "noise": config.noise.model_dump(mode="json"),
            "packing": config.data.packing,
            "micro_batch": config.train.micro_batch,
            "trainable": [[*map(str, s.trainable)] for s in config.train.stages.values()],
            "routing": [stage.gradient_routing for stage in config.train.stages.values()],
        }
        key = json.dumps(parts, sort_keys=True)
        if key not in known:
            known[key] = measure(config)
        return known[key]

    return look_up
