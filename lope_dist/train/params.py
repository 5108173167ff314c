"""Parameter counts of a run's model, from its architecture alone."""

from __future__ import annotations

from typing import Any

from lope_dist.adapters.count import count_parameters
from lope_dist.config.schema import RunConfig
from lope_dist.train.preflight import preflight


def count_run(config: RunConfig) -> dict[str, Any]:
    """Return the counts of `lope params --json`.

    The base is counted unquantized, since packed NF4 weights hide their number.
    """
    unquantized = config.model_copy(
        update={"model": config.model.model_copy(update={"quantization": "none"})}
    )
    plan = preflight(unquantized)
    return count_parameters(plan.model, config.adapter, config.train.stages)
