"""`noise`: what is injected (HyNoIse, paper section 3.2) and what the data already carries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lope_dist.config.base import Section

TextField = Literal["instruction", "input", "response"]


class TextNoiseConfig(Section):
    """An equal-share mix of discrete operations on an example's own text, never the template."""

    rate: float = Field(default=0.05, ge=0, le=1)
    """Share of the units that are corrupted; 0 is the identity."""
    unit: Literal["word", "example"] = "word"
    """`word`: every example has `rate` of its words corrupted, each operation an equal share.
    `example`: `rate` of the examples have `strength` of their words corrupted by one operation."""
    strength: float | None = Field(default=None, gt=0, le=1)
    """With `unit: example`, and only then: share of the words hit in a corrupted example."""
    operations: tuple[str, ...] = Field(
        default=("word_order", "char_insert", "char_delete"), min_length=1
    )
    """Registered operations; each gets an equal share."""
    fields: tuple[TextField, ...] = Field(
        default=("instruction", "input", "response"), min_length=1
    )
    """Which parts of an example may be corrupted."""

    @model_validator(mode="after")
    def _strength_belongs_to_examples(self) -> TextNoiseConfig:
        if (self.unit == "example") != (self.strength is not None):
            raise ValueError(
                f"strength = {self.strength} with unit = '{self.unit}': strength must be given "
                "with unit 'example' and with no other"
            )
        return self


class DataNoiseConfig(TextNoiseConfig):
    """Noise that stands for the data set's own: none unless a `rate` is given."""

    rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the units that are corrupted; 0 leaves the data as published."""


class EmbeddingNoiseConfig(Section):
    """Continuous noise `E' = E + alpha N M`, N ~ U(-1, 1), M the attention mask (section 3.2)."""

    alpha: float = Field(default=0.05, ge=0)
    """Noise ratio."""
    scale: Literal["paper", "neftune"] = "paper"
    """`paper`: alpha as it is. `neftune`: alpha / sqrt(length * hidden size)."""


class NoiseConfig(Section):
    """Injected noise, and noise of the data set itself."""

    text: TextNoiseConfig = TextNoiseConfig()
    """Discrete part of HyNoIse, injected in the stages whose `noise` is `text` or `hybrid`."""
    embedding: EmbeddingNoiseConfig = EmbeddingNoiseConfig()
    """Continuous part, in the stages whose `noise` is `embedding` or `hybrid`."""
    data: DataNoiseConfig = DataNoiseConfig()
    """Noise that stands for the data set's own (the paper's *Nois* sets): the same in every
    stage and epoch, under whatever a stage injects."""
