"""`noise`: what is injected (HyNoIse, paper section 3.2) and what the data already carries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lope_dist.config.base import Section

TextField = Literal["instruction", "input", "response"]
Preset = Literal["paper", "typing", "ocr", "speech"]
Operations = tuple[str, ...] | dict[str, float]


class _Mix(Section):
    """Operations and their shares of a rate."""

    operations: Operations

    @property
    def shares(self) -> dict[str, float]:
        """Return operation -> share of the rate, summing to 1, in the order of the names."""
        given = self.operations
        weights = dict(given) if isinstance(given, dict) else dict.fromkeys(given, 1.0)
        total = sum(weights.values())
        return {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}

    @field_validator("operations", mode="before")
    @classmethod
    def _list_or_mapping(cls, given: Any) -> Any:
        if not isinstance(given, dict | list | tuple):
            raise ValueError(
                f"{given!r} must be a list of operations, or a mapping of operations to weights"
            )
        names = list(given)
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{given!r} must name one operation or more")
        if len(set(names)) < len(names):
            raise ValueError(f"{given!r} names an operation twice; give weights in a mapping")
        if isinstance(given, dict):
            for name, weight in given.items():
                if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                    raise ValueError(f"the weight of '{name}' is {weight!r}, not a number from 0")
            if not sum(given.values()) > 0:
                raise ValueError("all weights are 0; set rate=0 for no noise")
        return given


class ResponseNoiseConfig(_Mix):
    """Answers that are wrong as a whole. Off unless a `rate` is given."""

    rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the examples whose last answer is hit. `operations` do not hit the words of such an
    answer."""
    operations: Operations = ("wrong_label",)
    """Operations on whole answers (`wrong_label`, `truncate`, `garbage`, `wrong_language`): a list
    for equal shares or a mapping of operations to weights."""


class TextNoiseConfig(_Mix):
    """A mix of discrete operations on an example's text, without the template."""

    rate: float = Field(default=0.05, ge=0, le=1)
    """Share of the units that are hit; 0 is the identity."""
    unit: Literal["word", "character", "example"] = "word"
    """`word`: `rate` of the words are hit, each by one operation. `character`: `rate` of the
    characters (white space not counted), by operations on characters. `example`: `rate` of the
    examples have `strength` of their words hit, all by one operation."""
    strength: float | None = Field(default=None, gt=0, le=1)
    """With `unit: example`, and only then: share of the words hit in a corrupted example."""
    operations: Operations = ("word_order", "char_insert", "char_delete")
    """Registered operations: a list for equal shares of the rate (the paper's way), or a mapping of
    operations to weights. `docs/noise.md` shows each."""
    fields: tuple[TextField, ...] = Field(
        default=("instruction", "input", "response"), min_length=1
    )
    """Which parts of an example `operations` may hit."""
    responses: ResponseNoiseConfig = ResponseNoiseConfig()
    """Answers that are wrong as a whole, with a rate of their own."""

    @property
    def is_on(self) -> bool:
        """Tell whether anything is hit at all."""
        return self.rate > 0 or self.responses.rate > 0

    @model_validator(mode="after")
    def _strength_belongs_to_examples(self) -> TextNoiseConfig:
        if (self.unit == "example") != (self.strength is not None):
            raise ValueError(
                f"strength = {self.strength} with unit = '{self.unit}': strength must be given "
                "with unit 'example' and with no other"
            )
        return self


class DataNoiseConfig(TextNoiseConfig):
    """Simulated noise of the data set itself. Off unless a `rate` is given."""

    rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the units that are hit; 0 leaves the data as published."""


class EmbeddingNoiseConfig(Section):
    """Continuous noise `E' = E + alpha N M`, N ~ U(-1, 1), M the attention mask (section 3.2)."""

    alpha: float = Field(default=0.05, ge=0)
    """Noise ratio."""
    scale: Literal["paper", "neftune"] = "paper"
    """`paper`: alpha as it is. `neftune`: alpha / sqrt(length * hidden size)."""


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "text": {
            "rate": 0.05,
            "unit": "word",
            "operations": ("word_order", "char_insert", "char_delete"),
            "fields": ("instruction", "input", "response"),
        },
        "embedding": {"alpha": 0.05, "scale": "paper"},
    },
    "typing": {
        "text": {
            "unit": "word",
            "operations": ("keyboard", "char_swap", "char_delete", "char_double", "case_loss"),
        }
    },
    "ocr": {"text": {"unit": "character", "operations": ("ocr",)}},
    "speech": {
        "text": {
            "unit": "word",
            "operations": {
                "case_loss": 2.0,
                "punctuation_loss": 2.0,
                "homophone": 1.0,
                "word_drop": 1.0,
                "word_duplicate": 1.0,
            },
        }
    },
}
"""Preset -> section -> key -> value."""


class NoiseConfig(Section):
    """Injected noise, and noise of the data set itself."""

    preset: Preset | None = None
    """A named choice of keys. `paper`: text (rate, unit, operations, fields) and embedding noise as
    the paper has them. `typing`, `ocr`, `speech`: unit and operations of the text noise; the shares
    are a choice, not measured. A key that the preset sets may not have another value."""
    text: TextNoiseConfig = TextNoiseConfig()
    """Discrete part of HyNoIse, injected in the stages whose `noise` is `text` or `hybrid`."""
    embedding: EmbeddingNoiseConfig = EmbeddingNoiseConfig()
    """Continuous part, in the stages whose `noise` is `embedding` or `hybrid`."""
    data: DataNoiseConfig = DataNoiseConfig()
    """Noise that stands for the data set's own (the paper's *Nois* sets): the same in every
    stage and epoch, under whatever a stage injects."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        filled = dict(tree)
        for section, keys in PRESETS.get(str(tree.get("preset")), {}).items():
            given = tree.get(section, {})
            if isinstance(given, dict):
                filled[section] = keys | given
            elif isinstance(given, Section):
                filled[section] = keys | given.model_dump(exclude_unset=True)
        return filled

    @model_validator(mode="after")
    def _nothing_contradicts_the_preset(self) -> NoiseConfig:
        for section, keys in PRESETS.get(self.preset or "", {}).items():
            for key, value in keys.items():
                given = getattr(getattr(self, section), key)
                if given != value:
                    shown = list(value) if isinstance(value, tuple) else value
                    raise ValueError(
                        f"{section}.{key} = {given} with preset = '{self.preset}', which sets it "
                        f"to {shown}; remove one of the two"
                    )
        return self
