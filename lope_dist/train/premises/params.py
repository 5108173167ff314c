"""Parameter counts of a run's model, from its architecture alone."""

from __future__ import annotations

from typing import Any

from lope_dist.adapters.count import count_parameters
from lope_dist.config.schema import RunConfig
from lope_dist.model.quantization import quantization_of
from lope_dist.train.premises.preflight import preflight


def count_run(config: RunConfig) -> dict[str, Any]:
    """Return the counts of `lope params --json`, and how much of the base is in 4 bits."""
    plan = preflight(config)
    facts = quantization_of(plan.model, config.model)
    counts = count_parameters(plan.model, config.adapter, config.train.stages)
    return {**counts, "quantization": facts.sentence(), **facts.as_json()}
