"""An example as a stage sees it: with the data set's own noise and what the stage injects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lope_dist.config.noise import NoiseConfig, TextNoiseConfig
from lope_dist.core.seeds import example_rng
from lope_dist.corpus.records import ExampleSource
from lope_dist.corpus.turns import Example, Turn
from lope_dist.noise.mix import DATA_NOISE, TEXT_NOISE, corrupt

_PLACES = {
    "instruction": ("user", "text"),
    "input": ("user", "context"),
    "response": ("assistant", "text"),
}


def noisy(example: Example, config: TextNoiseConfig, rng: np.random.Generator) -> Example:
    """Return the example with noise in the configured fields; system turns are never touched.

    Paper: section 3.2 (discrete part of HyNoIse).
    """
    places = [
        (index, attribute)
        for index, turn in enumerate(example.turns)
        for role, attribute in (_PLACES[field] for field in config.fields)
        if turn.role == role and getattr(turn, attribute)
    ]
    texts = corrupt([getattr(example.turns[i], a) for i, a in places], config, rng)
    return replace(example, turns=_with_texts(example.turns, places, texts))


def stage_view(
    example: Example, noise: NoiseConfig, *, injects_text: bool, seed: int, epoch: int
) -> Example:
    """Return the example with the data's noise (the same in every epoch) under the stage's.

    What comes out depends on the example, the seed and, for the stage's part, the epoch.
    """
    if noise.data.rate > 0:
        example = noisy(example, noise.data, example_rng(seed, DATA_NOISE, 0, example.id))
    if injects_text and noise.text.rate > 0:
        example = noisy(example, noise.text, example_rng(seed, TEXT_NOISE, epoch, example.id))
    return example


@dataclass(frozen=True)
class View:
    """An example as a stage sees it, and what was done to it."""

    example: Example
    hits: dict[str, int]
    """Noise operation -> units that it hit; empty if clean."""


def stage_views(
    examples: Sequence[Example],
    source: ExampleSource,
    noise: NoiseConfig,
    *,
    injects_text: bool,
    seed: int,
    epoch: int,
) -> list[View]:
    """Return the views of examples of ``source``."""
    return [
        View(stage_view(e, noise, injects_text=injects_text, seed=seed, epoch=epoch), {})
        for e in examples
    ]


def _with_texts(
    turns: tuple[Turn, ...], places: Sequence[tuple[int, str]], texts: Sequence[str]
) -> tuple[Turn, ...]:
    result = list(turns)
    for (index, attribute), text in zip(places, texts, strict=True):
        result[index] = replace(result[index], **{attribute: text})
    return tuple(result)
