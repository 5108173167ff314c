"""Which of a model's weights are in 4 bits, which are not, and why: nothing is left unsaid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.nf4 import packed_weights
from lope_dist.model.weight_kinds import Kinds, weights

_SHOWN = 6


@dataclass(frozen=True)
class QuantizationFacts:
    """Where the elements of the weights of two or more dimensions are; biases etc. are not counted.

    Attributes:
        method: `model.quantization`.
        quantized: Elements in NF4.
        exempt: Kind -> elements that are never quantized, whatever the configuration says.
        skipped: Weight -> elements that `model.skip_modules` keeps in 16 bits.
        left: Weight -> elements that would be quantized and cannot; a run refuses them.
    """

    method: str
    quantized: int = 0
    exempt: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)

    @property
    def counted(self) -> int:
        """Elements that are not exempt by kind."""
        return self.quantized + sum(self.skipped.values()) + sum(self.left.values())

    @property
    def share(self) -> float:
        """Elements in NF4 over `counted`; 1 where there is nothing to quantize."""
        if self.method == "none":
            return 0.0
        return self.quantized / self.counted if self.counted else 1.0

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "nf4_share": round(self.share, 6),
            "nf4_elements": self.quantized,
            "counted_elements": self.counted,
            "exempt": self.exempt,
            "skipped": self.skipped,
            "left": self.left,
        }

    def sentence(self) -> str:
        """Return the facts in words, for people."""
        if self.method == "none":
            return "No weight is quantized (model.quantization = none)."
        text = f"{self.share:.1%} of the weights are in NF4 ({_millions(self.quantized)})"
        if self.exempt:
            text += f"; not counted: {_listed(self.exempt)}"
        if self.skipped:
            text += f"; in 16 bits by model.skip_modules: {_listed(self.skipped)}"
        return f"{text}."


def quantization_of(model: PreTrainedModel, config: ModelConfig) -> QuantizationFacts:
    """Return the facts of a model that `build_meta_model` made, with adapters or without."""
    if config.quantization == "none":
        return QuantizationFacts("none")
    quantized = 0
    exempt: dict[str, int] = {}
    skipped: dict[str, int] = {}
    left: dict[str, int] = {}
    kinds = Kinds(model, config.skip_modules)
    for weight in weights(model):
        if weight.attribute in packed_weights(weight.module):
            quantized += weight.numel
        elif kind := kinds.of(weight):
            exempt[kind] = exempt.get(kind, 0) + weight.numel
        elif kinds.is_skipped(weight):
            skipped[weight.name] = weight.numel
        else:
            left[weight.name] = weight.numel
    return QuantizationFacts(config.quantization, quantized, exempt, skipped, left)


def refuse_what_is_left(facts: QuantizationFacts, model_type: str) -> None:
    """End a run whose weights would stay in 16 bits without anyone having said so.

    Raises:
        LopeError: with the share and the names.
    """
    if not facts.left:
        return
    names = list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in facts.left))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise LopeError(
        f"model.quantization = nf4 would reach {facts.share:.1%} of this {model_type} model's "
        f"weights: {', '.join(names[:_SHOWN])}{more} ({_millions(sum(facts.left.values()))}) are "
        "multiplied in a way that is not known to take packed weights; name them in "
        "model.skip_modules to keep them in 16 bits, or set model.quantization=none."
    )


def _listed(counts: dict[str, int]) -> str:
    """Return a few entries, the largest first."""
    largest = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {_millions(count)}" for name, count in largest[:_SHOWN])
    return text + (f" and {len(largest) - _SHOWN} more" if len(largest) > _SHOWN else "")


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else str(count)
