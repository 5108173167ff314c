"""The rows of experts that a trained model is asked as, by the words that name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lope_dist.adapters.context import Answer, Experts
from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.config.baselines import AnyAdapterConfig

PLAIN = CompensationConfig(mode="none")


@dataclass(frozen=True)
class Row(Answer):
    """An answer with the name that tables have for it."""

    name: str = field(kw_only=True)

    def identity(self) -> dict[str, Any]:
        """Return what the row's answers depend on beside the run, JSON-able."""
        settings: dict[str, Any] = {
            "experts": self.experts,
            "compensation": self.compensation.model_dump(mode="json"),
            "scale": self.scale,
        }
        return (
            settings if self.poison_scale == 1 else settings | {"poison_scale": self.poison_scale}
        )


@dataclass(frozen=True)
class Word:
    """What a word stands for."""

    experts: Experts
    settings: tuple[str, ...]
    """What may be set behind it."""


WORDS = {
    "masked": Word("masked", ("mode", "k", "beta", "scale")),
    "masked_plain": Word("masked", ("scale",)),
    "masked_normal": Word("masked_normal", ("scale",)),
    "all": Word("all", ("scale", "poison")),
    "base": Word("none", ()),
}
SAME_AS = {"none": "base"}
"""Other words for a row -> its own."""


def row_of(word: str, adapter: AnyAdapterConfig) -> Row:
    """Return the row that a word alone stands for; compensation is the adapter's own."""
    meaning = WORDS[word]
    compensation = PLAIN
    if word == "masked" and isinstance(adapter, AdapterConfig):
        compensation = adapter.compensation
    return Row(meaning.experts, compensation, name=word)
