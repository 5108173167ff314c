"""The equal-share mix of operations on the fields of one example (HyNoIse's discrete part)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lope_dist.config.noise import NoiseConfig, TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.noise.base import NOISE

DATA_NOISE = "data-noise"
"""Purpose of the data set's own noise; its generator's epoch is always 0."""
TEXT_NOISE = "text-noise"
"""Purpose of the noise that a stage injects, new in every epoch."""


def corrupt(texts: Sequence[str], config: TextNoiseConfig, rng: np.random.Generator) -> list[str]:
    """Return the fields of one example with noise in them; words stay in their field.

    With ``unit: word`` the operations follow each other, each at ``rate`` over their number.
    With ``unit: example`` the example is hit with probability ``rate``, and then by one
    operation, drawn uniformly, at ``strength``.

    Paper: section 3.2.
    """
    if config.unit == "word":
        names, rate = config.operations, config.rate / len(config.operations)
    elif rng.random() < config.rate:
        names = (config.operations[int(rng.integers(len(config.operations)))],)
        assert config.strength is not None, "the schema sees to that"
        rate = config.strength
    else:
        return list(texts)
    if rate == 0:
        return list(texts)
    corrupted = []
    for text in texts:
        for name in names:
            text = NOISE[name](text, rng, rate)
        corrupted.append(text)
    return corrupted


def check_operations(config: NoiseConfig) -> None:
    """Check that all configured operations are registered.

    Raises:
        LopeError: an unknown name; tells the known ones.
    """
    for key in ("text", "data"):
        for name in getattr(config, key).operations:
            try:
                NOISE[name]
            except LopeError as error:
                raise LopeError(f"noise.{key}.operations: {error}") from None
