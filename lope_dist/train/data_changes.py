"""What a run does to its data, and which of them it leaves out, in sentences."""

from __future__ import annotations

from lope_dist.config.noise import DataNoiseConfig
from lope_dist.config.schema import RunConfig


def data_changes(config: RunConfig) -> list[str]:
    """Return a sentence for each: noise of the data set itself, and rows that are not used."""
    told = [_noise(config.noise.data)] if config.noise.data.is_on else []
    for place in config.data.places:
        if place.max_examples is not None:
            name = place.path if isinstance(place.path, str) else ", ".join(place.path)
            told.append(
                f"data.max_examples: of {name} the first {place.max_examples:,} rows are used and "
                "no others."
            )
    return told


def _noise(noise: DataNoiseConfig) -> str:
    parts = [f"{noise.rate:.1%} of the {noise.unit}s"] if noise.rate > 0 else []
    if noise.responses.rate > 0:
        parts.append(f"{noise.responses.rate:.1%} of the answers as a whole")
    return (
        f"noise.data changes {' and '.join(parts)}, in every stage; noise.data.rate=0 leaves the "
        "data as they are."
    )
